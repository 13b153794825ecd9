"""Attention of one new token a sequence over a paged cache, the keys split over programs.

The splits of a head combine as in Flash-Decoding (Dao et al. 2023), without a second launch: the
last program to arrive does it, in the order of the splits, whoever that is.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from gpt2fast.errors import OptionError
from gpt2fast.kernels.triton.dependent import launch_dependents, wait
from gpt2fast.kernels.triton.paged import check_cache, key_offsets
from gpt2fast.kernels.triton.variant import Variant, element

SPLITS = (1, 4, 16)  # what a runner chooses from
TILES = (32, 64)  # tokens at a time, likewise


@triton.jit
def attend_span(
    q,  # (BLOCK_D,) float32, times scale and log2(e)
    cache_ptr,
    table_ptr,
    head,
    begin,
    end,
    HEADS: tl.constexpr,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_TOKENS: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """Largest score (in powers of two), sum of weights and weighted sum (BLOCK_D,) over the cached
    tokens [begin, end); of none, -inf and zeros."""
    most, total = float("-inf"), 0.0
    out = tl.zeros((BLOCK_D,), tl.float32)
    d = tl.arange(0, BLOCK_D)
    for start in range(begin, end, BLOCK_N):
        token = start + tl.arange(0, BLOCK_N)
        present = token < end
        at = key_offsets(table_ptr, token, present, head, HEADS, D, BLOCK_TOKENS)
        inside = present[:, None] & (d < D)[None, :]
        keys = cache_ptr + at[:, None] + d[None, :]
        # Both are asked for before either is used.
        k = tl.load(keys, mask=inside, other=0.0).to(tl.float32)
        v = tl.load(keys + HEADS * BLOCK_TOKENS * D, mask=inside, other=0.0).to(tl.float32)
        scores = tl.where(present, tl.sum(k * q[None, :], axis=1), float("-inf"))
        larger = tl.maximum(most, tl.max(scores, axis=0))
        weights = tl.exp2(scores - larger)
        shrink = tl.exp2(most - larger)
        total = total * shrink + tl.sum(weights, axis=0)
        out = out * shrink + tl.sum(weights[:, None] * v, axis=0)
        most = larger
    return most, total, out


@triton.jit
def add_new_token(most, total, out, score, v):
    """The state of attend_span with one more token."""
    larger = tl.maximum(most, score)
    weight = tl.exp2(score - larger)
    shrink = tl.exp2(most - larger)
    return larger, total * shrink + weight, out * shrink + weight * v


@triton.jit
def combine_splits(partial_ptr, SPLITS: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_D: tl.constexpr):
    """out (BLOCK_D,) from the states (SPLITS, BLOCK_D + 2) of all splits.

    Read past the first-level cache, which does not see what other programs wrote.
    """
    split = tl.arange(0, BLOCK_S)
    d = tl.arange(0, BLOCK_D)
    at = partial_ptr + split * (BLOCK_D + 2)
    there = split < SPLITS
    most = tl.load(at + BLOCK_D, mask=there, other=float("-inf"), cache_modifier=".cg")
    total = tl.load(at + BLOCK_D + 1, mask=there, other=0.0, cache_modifier=".cg")
    out = tl.load(at[:, None] + d[None, :], mask=there[:, None], other=0.0, cache_modifier=".cg")
    factor = tl.exp2(most - tl.max(most, axis=0))
    return tl.sum(out * factor[:, None], axis=0) / tl.sum(total * factor, axis=0)


@triton.jit(do_not_specialize=["table_width"])
def attention_decode_kernel(
    qkv_ptr,  # (S, 3 * H * D)
    cache_ptr,  # (blocks, 2, H, BLOCK_TOKENS, D)
    out_ptr,  # (S, H * D)
    contexts_ptr,  # (S,): tokens before this one, or -1
    tables_ptr,  # (S, table_width)
    partial_ptr,  # (S, H, SPLITS, BLOCK_D + 2) float32
    arrived_ptr,  # (S, H) int32, zeros
    table_width,
    scale,
    HEADS: tl.constexpr,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_TOKENS: tl.constexpr,
    BLOCK_N: tl.constexpr,
    SPLITS: tl.constexpr,
    BLOCK_S: tl.constexpr,
    DEPENDENT: tl.constexpr,
):
    """Stores the new key and value; out = softmax(scale * q k^T) v over the cached tokens and it.

    Grid (SPLITS, H, S): each program takes a share of the cached tokens of one head, the last one
    the new token as well. The counters are left at zero for the next launch. A context below 0
    says that there is no sequence; its output is left as it is.
    """
    launch_dependents(DEPENDENT)
    wait(DEPENDENT)
    split, head, sequence = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    context = tl.load(contexts_ptr + sequence)
    if context < 0:
        return
    table = tables_ptr + sequence.to(tl.int64) * table_width
    d = tl.arange(0, BLOCK_D)
    inside = d < D
    row = qkv_ptr + sequence.to(tl.int64) * (3 * HEADS * D) + head * D + d
    q = tl.load(row, mask=inside, other=0.0).to(tl.float32) * (scale * 1.4426950408889634)
    # Whole tiles for every split but the last.
    share = tl.cdiv(tl.cdiv(context, SPLITS), BLOCK_N) * BLOCK_N
    begin = tl.minimum(split * share, context)
    end = tl.minimum(begin + share, context)
    most, total, out = attend_span(
        q, cache_ptr, table, head, begin, end, HEADS, D, BLOCK_D, BLOCK_TOKENS, BLOCK_N
    )
    if split == SPLITS - 1:
        key = tl.load(row + HEADS * D, mask=inside, other=0.0)
        value = tl.load(row + 2 * HEADS * D, mask=inside, other=0.0)
        to = cache_ptr + key_offsets(table, context, context >= 0, head, HEADS, D, BLOCK_TOKENS) + d
        tl.store(to, key, mask=inside)
        tl.store(to + HEADS * BLOCK_TOKENS * D, value, mask=inside)
        score = tl.sum(q * key.to(tl.float32), axis=0)
        most, total, out = add_new_token(most, total, out, score, value.to(tl.float32))
    to_out = out_ptr + sequence.to(tl.int64) * (HEADS * D) + head * D + d
    if SPLITS == 1:
        tl.store(to_out, (out / total).to(out_ptr.dtype.element_ty), mask=inside)
    else:
        group = sequence.to(tl.int64) * HEADS + head
        mine = partial_ptr + (group * SPLITS + split) * (BLOCK_D + 2)
        tl.store(mine + d, out)
        tl.store(mine + BLOCK_D, most)
        tl.store(mine + BLOCK_D + 1, total)
        tl.debug_barrier()  # all threads have stored before one of them says so
        before = tl.atomic_add(arrived_ptr + group, 1, sem="acq_rel")
        if before == SPLITS - 1:
            first = partial_ptr + group * SPLITS * (BLOCK_D + 2)
            whole = combine_splits(first, SPLITS, BLOCK_S, BLOCK_D)
            tl.store(to_out, whole.to(out_ptr.dtype.element_ty), mask=inside)
            tl.store(arrived_ptr + group, 0)


class SplitWorkspace:
    """What the splits of up to ``sequences`` sequences exchange; one launch at a time may use it.

    Args:
        sequences, heads, head_size: the largest that will be asked for.
        splits: the largest number of splits.
    """

    def __init__(
        self, sequences: int, heads: int, head_size: int, splits: int, device: torch.device
    ) -> None:
        state = _block_d(head_size) + 2
        self.partial = torch.empty(sequences * heads * splits * state, device=device)
        self.arrived = torch.zeros(sequences * heads, dtype=torch.int32, device=device)


def attention_decode(
    qkv: Tensor,
    cache: Tensor,
    contexts: Tensor,
    tables: Tensor,
    heads: int,
    scale: float,
    splits: int = 1,
    workspace: SplitWorkspace | None = None,
    tile: int = TILES[-1],
) -> Tensor:
    """Store the new token's key and value, then attend: qkv (S, 3 H D) -> (S, H D).

    cache (blocks, 2, H, block tokens, D) of qkv's dtype; contexts (S,) and tables (S, M) int32, as
    in ``StepBatch``. The result depends on ``splits`` and ``tile`` in its last bits, and on nothing
    else that is not its input. More than one split needs a ``workspace``.
    """
    sequences, width = qkv.shape[0], qkv.shape[1] // 3
    block_tokens = check_cache(cache, heads, width // heads)
    out = torch.empty(sequences, width, dtype=qkv.dtype, device=qkv.device)
    if workspace is None:
        if splits > 1:
            raise OptionError(f"{splits} splits need a SplitWorkspace to meet in; give one")
        workspace = SplitWorkspace(0, 0, 1, 0, qkv.device)
    elif len(workspace.arrived) < sequences * heads or len(workspace.partial) < (
        sequences * heads * splits * (_block_d(width // heads) + 2)
    ):
        raise OptionError(
            f"the workspace is too small for {sequences} sequences of {heads} heads in {splits} "
            "splits; make one for the largest step"
        )
    chosen = plan(heads, width // heads, block_tokens, splits, qkv.dtype, tile)
    where = (contexts, tables, workspace.partial, workspace.arrived, tables.shape[1])
    chosen.launch((splits, heads, sequences), qkv.device, qkv, cache, out, *where, scale)
    return out


def _block_d(head_size: int) -> int:
    return int(triton.next_power_of_2(head_size))


@cache
def plan(
    heads: int,
    head_size: int,
    block_tokens: int,
    splits: int,
    dtype: torch.dtype,
    tile: int = TILES[-1],
) -> Variant:
    """The kernel and its constants. ``tile`` tokens at a time where a head has 64 values of 16
    bits: as many bytes in any case, and 64 of keys a thread."""
    kind, block_d = element(dtype), _block_d(head_size)
    types = dict.fromkeys(("qkv_ptr", "cache_ptr", "out_ptr"), f"*{kind}")
    types |= dict.fromkeys(("contexts_ptr", "tables_ptr"), "*i32")
    types |= {"partial_ptr": "*fp32", "arrived_ptr": "*i32"}
    types |= {"table_width": "i32", "scale": "fp32"}
    constants = {
        "HEADS": heads,
        "D": head_size,
        "BLOCK_D": block_d,
        "BLOCK_TOKENS": block_tokens,
        "BLOCK_N": max(tile * 64 * 16 // (block_d * torch.finfo(dtype).bits), 1),
        "SPLITS": splits,
        "BLOCK_S": triton.next_power_of_2(splits),
    }
    name = f"attention_decode {heads}x{head_size} {kind} splits={splits} tile={tile}"
    registers = _most_registers(dtype, tile)
    return Variant(name, attention_decode_kernel, types, constants, 2, 1, registers)


def _most_registers(dtype: torch.dtype, tile: int) -> dict[int, int]:
    """Where the compiler aims too low for the keys and values of a tile, and spills a few bytes:
    the least that is enough for any head size."""
    if dtype == torch.float32:
        return {100: 40 + 3 * tile // 4}
    return {80: 80} if tile == TILES[-1] else {}


def variants(heads: int, head_size: int, dtype: str) -> Iterator[Variant]:
    """As used for a model of these heads, with blocks of 16 tokens, whole and split."""
    for splits in SPLITS:
        for tile in TILES:
            yield plan(heads, head_size, 16, splits, getattr(torch, dtype), tile)
