"""What a decode step needs to know of each sequence, kept on the GPU from step to step.

One int32 tensor (FIELDS, capacity): one copy brings all of it, and a step that has chosen tokens
leaves everything as the next step needs it. Floats are stored as their bits.
"""

from __future__ import annotations

import triton
import triton.language as tl

TOKEN = tl.constexpr(0)  # the next input
CONTEXT = tl.constexpr(1)  # tokens in the cache before it; -1: there is no sequence in this slot
WRITTEN = tl.constexpr(2)  # tokens chosen since the host last looked
DRAW = tl.constexpr(3)  # number of the next random draw
STREAM = tl.constexpr(4)
SEED_LOW = tl.constexpr(5)
SEED_HIGH = tl.constexpr(6)
TEMPERATURE = tl.constexpr(7)  # float; 0 takes the most likely token
TOP_K = tl.constexpr(8)  # 0 is off
TOP_P = tl.constexpr(9)  # float; 1 is off
MIN_P = tl.constexpr(10)  # float; 0 is off
FIELDS = 11

MOST_STEPS = 32  # tokens of a sequence between two looks of the host


@triton.jit
def load_field(state_ptr, capacity, FIELD: tl.constexpr, row, present):
    """A field of the sequences ``row``, of any shape; zero where not ``present``."""
    return tl.load(state_ptr + FIELD * capacity + row, mask=present, other=0)


@triton.jit
def load_float(state_ptr, capacity, FIELD: tl.constexpr, row, present):
    """A field that is a float."""
    stored = load_field(state_ptr, capacity, FIELD, row, present)
    return stored.to(tl.float32, bitcast=True)


@triton.jit
def advance(state_ptr, capacity, history_ptr, row, present, token, MOST_STEPS: tl.constexpr):
    """``token`` (R,) is what was chosen for the sequences ``row`` (R,): write it down, and make it
    the next input. A token below 0, for logits that are not numbers, is written down alone."""
    at = state_ptr + row
    written = tl.load(at + WRITTEN * capacity, mask=present, other=0)
    context = tl.load(at + CONTEXT * capacity, mask=present, other=0)
    draw = tl.load(at + DRAW * capacity, mask=present, other=0)
    room = present & (written < MOST_STEPS)
    tl.store(history_ptr + row * MOST_STEPS + written, token, mask=room)
    tl.store(at + TOKEN * capacity, tl.maximum(token, 0), mask=present)
    tl.store(at + WRITTEN * capacity, written + 1, mask=present)
    tl.store(at + CONTEXT * capacity, tl.where(context < 0, context, context + 1), mask=present)
    tl.store(at + DRAW * capacity, draw + 1, mask=present)
