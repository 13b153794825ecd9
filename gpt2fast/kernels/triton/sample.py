"""Choosing tokens from logits under top-k, top-p and min-p, without a sort.

What each filter keeps is all logits from some bound on. The bound is searched by bisection between
two values of the row, counting (top-k) or adding (top-p) what is not below the pivot, and going on
from the nearest values of the row, so that it ends at a value exactly (the idea of Qrita and of
FlashInfer's samplers). The kept ones are chosen from by Gumbel-max, as in ``head.py``.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import triton
import triton.language as tl
from torch import Tensor

from gpt2fast.kernels.triton.dependent import launch_dependents, wait
from gpt2fast.kernels.triton.gumbel import NO_TOKEN, checked, largest, perturb
from gpt2fast.kernels.triton.head import Choice
from gpt2fast.kernels.triton.row_state import (
    DRAW,
    MIN_P,
    MOST_STEPS,
    SEED_HIGH,
    SEED_LOW,
    STREAM,
    TEMPERATURE,
    TOP_K,
    TOP_P,
    advance,
    load_field,
    load_float,
)
from gpt2fast.kernels.triton.variant import Variant


@triton.jit
def extremes(logits_ptr, V: tl.constexpr, BLOCK: tl.constexpr):
    """Smallest and largest of a row of logits (V,), those at -inf left aside."""
    low = tl.full((BLOCK,), float("inf"), tl.float32)
    high = tl.full((BLOCK,), float("-inf"), tl.float32)
    for start in range(0, V, BLOCK):
        token = start + tl.arange(0, BLOCK)
        x = tl.load(logits_ptr + token, mask=token < V, other=float("nan"))
        low = tl.where((x < low) & (x > float("-inf")), x, low)
        high = tl.where(x > high, x, high)
    return tl.min(low, axis=0), tl.max(high, axis=0)


@triton.jit
def weigh(x, high, temperature, BY_WEIGHT: tl.constexpr):
    """What a logit counts: its share of the probability, or one."""
    if not BY_WEIGHT:
        return tl.full(x.shape, 1.0, tl.float32)
    return tl.exp((x - high) / temperature)


@triton.jit
def look_at(logits_ptr, pivot, bound, high, temperature, BY_WEIGHT: tl.constexpr, V: tl.constexpr,
            BLOCK: tl.constexpr):  # fmt: skip
    """What the logits from ``pivot`` on weigh, the least of them, and the largest below it; those
    below ``bound`` do not count."""
    total = tl.zeros((BLOCK,), tl.float32)
    above = tl.full((BLOCK,), float("inf"), tl.float32)
    below = tl.full((BLOCK,), float("-inf"), tl.float32)
    for start in range(0, V, BLOCK):
        token = start + tl.arange(0, BLOCK)
        x = tl.load(logits_ptr + token, mask=token < V, other=float("-inf"))
        counts = (x >= pivot) & (x >= bound)
        total += tl.where(counts, weigh(x, high, temperature, BY_WEIGHT), 0.0)
        above = tl.minimum(above, tl.where(counts, x, float("inf")))
        below = tl.maximum(below, tl.where(x < pivot, x, float("-inf")))
    return tl.sum(total, axis=0), tl.min(above, axis=0), tl.max(below, axis=0)


@triton.jit
def find_bound(logits_ptr, target, low, high, most, temperature, BY_WEIGHT: tl.constexpr,
               V: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    """The largest logit from which on logits weigh ``target`` or more. It is one of [low, high],
    all of which weigh that much; ``most`` is the largest logit.

    Each pass takes at least one value of the row away, and as a rule half of the interval.
    """
    bound = low
    passes = 0
    while (low < high) & (passes < 256):
        pivot = low + (high - low) * 0.5
        pivot = tl.where(pivot > low, pivot, high)
        weight, above, below = look_at(
            logits_ptr, pivot, bound, most, temperature, BY_WEIGHT, V, BLOCK
        )
        enough = weight >= target
        high = tl.where(enough, high, tl.maximum(below, low))
        low = tl.where(enough, above, low)
        if not BY_WEIGHT:
            high = tl.where(weight == target, low, high)
        passes += 1
    return low


@triton.jit
def filter_bound(logits_ptr, state_ptr, capacity, row, low, high, temperature, V: tl.constexpr,
                 BLOCK: tl.constexpr):  # fmt: skip
    """The least logit that top-k, then top-p, then min-p leave."""
    bound = low
    top_k = load_field(state_ptr, capacity, TOP_K, row, True)
    if (top_k > 0) & (top_k < V):
        target = top_k.to(tl.float32)
        bound = find_bound(logits_ptr, target, bound, high, high, temperature, False, V, BLOCK)
    top_p = load_float(state_ptr, capacity, TOP_P, row, True)
    if top_p < 1.0:
        whole, _, _ = look_at(logits_ptr, bound, bound, high, temperature, True, V, BLOCK)
        target = top_p * whole
        bound = find_bound(logits_ptr, target, bound, high, high, temperature, True, V, BLOCK)
    min_p = load_float(state_ptr, capacity, MIN_P, row, True)
    if min_p > 0.0:
        bound = tl.maximum(bound, high + temperature * tl.log(min_p))
    return tl.minimum(bound, high)


@triton.jit(do_not_specialize=["capacity"])
def sample_kernel(
    logits_ptr,  # (R, V) float32
    state_ptr,  # (FIELDS, capacity)
    history_ptr,  # (capacity, MOST_STEPS)
    capacity,
    V: tl.constexpr,
    BLOCK: tl.constexpr,
    MOST_STEPS: tl.constexpr,
    DEPENDENT: tl.constexpr,
):
    """A token for each row, as its fields say. Grid (R,): a row stays in the cache of the one
    multiprocessor that goes over it."""
    launch_dependents(DEPENDENT)
    row = tl.program_id(0)
    logits_ptr += row.to(tl.int64) * V
    wait(DEPENDENT)
    temperature = load_float(state_ptr, capacity, TEMPERATURE, row, True)
    draw = load_field(state_ptr, capacity, DRAW, row, True)
    stream = load_field(state_ptr, capacity, STREAM, row, True)
    seed_low = load_field(state_ptr, capacity, SEED_LOW, row, True)
    seed_high = load_field(state_ptr, capacity, SEED_HIGH, row, True)
    bound = float("-inf")
    if temperature > 0.0:
        low, high = extremes(logits_ptr, V, BLOCK)
        warm = tl.maximum(temperature, 1e-30)
        bound = filter_bound(logits_ptr, state_ptr, capacity, row, low, high, warm, V, BLOCK)
    most = tl.full((BLOCK,), float("-inf"), tl.float32)
    chosen = tl.full((BLOCK,), NO_TOKEN, tl.int32)
    for start in range(0, V, BLOCK):
        token = start + tl.arange(0, BLOCK)
        x = tl.load(logits_ptr + token, mask=token < V, other=float("-inf"))
        y = perturb(x, token, temperature, draw, stream, seed_low, seed_high)
        # What is not a number is above every bound: the row is refused for it.
        y = tl.where((x < bound) | (token >= V), float("-inf"), y)
        chosen = tl.where(y > most, token, chosen)
        most = tl.maximum(most, y)
    most, chosen = largest(most[None, :], chosen[None, :])
    slot = row + tl.arange(0, 1)
    advance(state_ptr, capacity, history_ptr, slot, slot >= 0, checked(most, chosen), MOST_STEPS)


def sample(logits: Tensor, choice: Choice) -> None:
    """Choose a token from each row of logits (R, V), float32, as the fields of the first R slots
    of ``choice`` say, and advance them. Ties with the last logit that is kept are kept."""
    chosen = plan(logits.shape[1])
    arguments = (logits, choice.state, choice.history, choice.capacity)
    chosen.launch((len(logits),), logits.device, *arguments)


@cache
def plan(vocabulary: int) -> Variant:
    """The kernel and its constants."""
    types = {"logits_ptr": "*fp32", "state_ptr": "*i32", "history_ptr": "*i32", "capacity": "i32"}
    block = min(triton.next_power_of_2(vocabulary), 8192)
    constants = {"V": vocabulary, "BLOCK": block, "MOST_STEPS": MOST_STEPS}
    return Variant(f"sample {vocabulary}", sample_kernel, types, constants, max(block // 512, 1))


def variants() -> Iterator[Variant]:
    """As used for GPT-2's vocabulary."""
    yield plan(50257)
