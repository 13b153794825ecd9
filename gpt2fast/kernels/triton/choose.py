"""The best token of a vocabulary that lies in tiles, each with a program of its own: the last one
to arrive picks among all."""

from __future__ import annotations

import triton
import triton.language as tl

from gpt2fast.kernels.triton.gumbel import NO_TOKEN, checked, largest, perturb
from gpt2fast.kernels.triton.row_state import (
    DRAW,
    SEED_HIGH,
    SEED_LOW,
    STREAM,
    TEMPERATURE,
    advance,
    load_field,
    load_float,
)


@triton.jit
def leave_best(logits, row, present, n, inside, state_ptr, capacity, best_ptr, best_token_ptr,
               TILES: tl.constexpr):  # fmt: skip
    """The best of a tile of logits (R, BLOCK_N), for the last program to find."""
    temperature = load_float(state_ptr, capacity, TEMPERATURE, row, present)
    token = n[None, :] + row[:, None] * 0
    if tl.max(temperature, axis=0) > 0.0:
        draw = load_field(state_ptr, capacity, DRAW, row, present)[:, None]
        stream = load_field(state_ptr, capacity, STREAM, row, present)[:, None]
        low = load_field(state_ptr, capacity, SEED_LOW, row, present)[:, None]
        high = load_field(state_ptr, capacity, SEED_HIGH, row, present)[:, None]
        values = perturb(logits, token, temperature[:, None], draw, stream, low, high)
    else:
        values = tl.where(logits != logits, float("inf"), logits)
    values = tl.where(inside, values, float("-inf"))
    most, best = largest(values, token)
    to = row.to(tl.int64) * TILES + tl.program_id(0)
    tl.store(best_ptr + to, most, mask=present)
    tl.store(best_token_ptr + to, best, mask=present)


@triton.jit
def choose_among_tiles(row, present, state_ptr, capacity, best_ptr, best_token_ptr, history_ptr,
                       ROWS: tl.constexpr, TILES: tl.constexpr, BLOCK_T: tl.constexpr,
                       MOST_STEPS: tl.constexpr):  # fmt: skip
    """The best of all tiles becomes the next token of the sequences ``row`` (ROWS,).

    Read past the first-level cache, which does not see what other programs wrote.
    """
    most = tl.full((ROWS,), float("-inf"), tl.float32)
    chosen = tl.full((ROWS,), NO_TOKEN, tl.int32)
    for start in range(0, TILES, BLOCK_T):
        tile = start + tl.arange(0, BLOCK_T)
        there = present[:, None] & (tile < TILES)[None, :]
        at = row.to(tl.int64)[:, None] * TILES + tile[None, :]
        values = tl.load(best_ptr + at, mask=there, other=float("-inf"), cache_modifier=".cg")
        tokens = tl.load(best_token_ptr + at, mask=there, other=NO_TOKEN, cache_modifier=".cg")
        here, token = largest(values, tokens)
        chosen = tl.where(here > most, token, chosen)
        most = tl.maximum(most, here)
    advance(state_ptr, capacity, history_ptr, row, present, checked(most, chosen), MOST_STEPS)


@triton.jit
def last_to_arrive(arrived_ptr, expected):
    """Whether all other programs have left their results."""
    tl.debug_barrier()  # all threads have stored before one of them says so
    before = tl.atomic_add(arrived_ptr, 1, sem="acq_rel")
    return before == expected - 1
