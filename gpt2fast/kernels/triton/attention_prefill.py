"""Attention of many new tokens over a paged cache (FlashAttention-2, Dao 2023, forward)."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from gpt2fast.kernels.triton.dependent import launch_dependents, wait
from gpt2fast.kernels.triton.paged import check_cache, key_offsets
from gpt2fast.kernels.triton.variant import Variant, element


@triton.jit
def attend_tiles(
    q,  # (BLOCK_M, BLOCK_D)
    most,  # (BLOCK_M,) the largest score so far, in powers of two
    total,  # (BLOCK_M,) sum of the weights so far
    out,  # (BLOCK_M, BLOCK_D) weighted sum so far, float32
    cache_ptr,
    table_ptr,
    head,
    begin,
    end,
    position,  # (BLOCK_M,) of the queries
    seen,  # tokens that were written
    scale,  # times log2(e)
    MASKED: tl.constexpr,
    HEADS: tl.constexpr,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_TOKENS: tl.constexpr,
    BLOCK_N: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """The running softmax over the tokens [begin, end), BLOCK_N at a time.

    MASKED: a query sees tokens up to its own position, and none that was not written, whose slot
    may hold anything. Otherwise all queries see all of them.
    """
    d = tl.arange(0, BLOCK_D)
    for start in range(begin, end, BLOCK_N):
        token = start + tl.arange(0, BLOCK_N)
        written = token < seen
        at = key_offsets(table_ptr, token, written, head, HEADS, D, BLOCK_TOKENS)
        keys = cache_ptr + at[None, :] + d[:, None]
        values = cache_ptr + HEADS * BLOCK_TOKENS * D + at[:, None] + d[None, :]
        inside = d < D
        if MASKED:
            k = tl.load(keys, mask=inside[:, None] & written[None, :], other=0.0)
        elif BLOCK_D > D:
            k = tl.load(keys, mask=inside[:, None], other=0.0)
        else:
            k = tl.load(keys)
        scores = tl.dot(q, k, input_precision=PRECISION) * scale
        if MASKED:
            scores = tl.where(token[None, :] <= position[:, None], scores, float("-inf"))
        larger = tl.maximum(most, tl.max(scores, axis=1))
        weights = tl.exp2(scores - larger[:, None])
        shrink = tl.exp2(most - larger)
        total = total * shrink + tl.sum(weights, axis=1)
        if MASKED:
            v = tl.load(values, mask=inside[None, :] & written[:, None], other=0.0)
        elif BLOCK_D > D:
            v = tl.load(values, mask=inside[None, :], other=0.0)
        else:
            v = tl.load(values)
        out = out * shrink[:, None]
        out = tl.dot(weights.to(v.dtype), v, out, input_precision=PRECISION)
        most = larger
    return most, total, out


@triton.jit(do_not_specialize=["table_width"])
def attention_prefill_kernel(
    qkv_ptr,  # (T, 3 * H * D)
    cache_ptr,  # (blocks, 2, H, BLOCK_TOKENS, D)
    out_ptr,  # (T, H * D)
    starts_ptr,  # (S + 1,): rows of sequence s are [starts[s], starts[s + 1])
    contexts_ptr,  # (S,): tokens of sequence s before these
    tables_ptr,  # (S, table_width)
    table_width,
    scale,
    HEADS: tl.constexpr,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_TOKENS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    PRECISION: tl.constexpr,
    DEPENDENT: tl.constexpr,
):
    """out = softmax(scale * q k^T, causal) v.

    Grid (rows of the longest sequence / BLOCK_M, H, S): each program takes BLOCK_M queries of one
    head of one sequence, the last ones first, since they have the most to do. It walks the tokens
    that all of its queries see, then those on the diagonal.
    """
    launch_dependents(DEPENDENT)
    wait(DEPENDENT)
    head, sequence = tl.program_id(1), tl.program_id(2)
    first = tl.load(starts_ptr + sequence)
    count = tl.load(starts_ptr + sequence + 1) - first
    tile = tl.num_programs(0) - 1 - tl.program_id(0)
    if tile * BLOCK_M >= count:
        return
    context = tl.load(contexts_ptr + sequence)
    table = tables_ptr + sequence.to(tl.int64) * table_width
    row = tile * BLOCK_M + tl.arange(0, BLOCK_M)
    d = tl.arange(0, BLOCK_D)
    inside = (row < count)[:, None] & (d < D)[None, :]
    at = (first + row).to(tl.int64)[:, None]
    q = tl.load(qkv_ptr + at * (3 * HEADS * D) + (head * D + d)[None, :], mask=inside, other=0.0)
    position = context + row
    most = tl.full((BLOCK_M,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK_M,), tl.float32)
    out = tl.zeros((BLOCK_M, BLOCK_D), tl.float32)
    scale = scale * 1.4426950408889634  # log2(e): powers of two are what the hardware computes
    diagonal = (context + tile * BLOCK_M + 1) // BLOCK_N * BLOCK_N
    seen = context + count
    end = tl.minimum(context + (tile + 1) * BLOCK_M, seen)
    most, total, out = attend_tiles(
        q, most, total, out, cache_ptr, table, head, 0, diagonal, position, seen, scale,
        False, HEADS, D, BLOCK_D, BLOCK_TOKENS, BLOCK_N, PRECISION,
    )  # fmt: skip
    most, total, out = attend_tiles(
        q, most, total, out, cache_ptr, table, head, diagonal, end, position, seen, scale,
        True, HEADS, D, BLOCK_D, BLOCK_TOKENS, BLOCK_N, PRECISION,
    )  # fmt: skip
    out = (out / total[:, None]).to(out_ptr.dtype.element_ty)
    tl.store(out_ptr + at * (HEADS * D) + (head * D + d)[None, :], out, mask=inside)


def attention_prefill(
    qkv: Tensor,
    cache: Tensor,
    starts: Tensor,
    contexts: Tensor,
    tables: Tensor,
    heads: int,
    scale: float,
    longest: int,
) -> Tensor:
    """Causal attention of all rows, whose keys and values are in the cache already -> (T, H D).

    qkv (T, 3 H D); cache (blocks, 2, H, block tokens, D) of the same dtype; starts (S + 1,),
    contexts (S,), tables (S, M): int32, as in ``StepBatch``. ``scale`` multiplies the scores, which
    are float32. ``longest``: the largest number of rows of a sequence.
    """
    width = qkv.shape[1] // 3
    block_tokens = check_cache(cache, heads, width // heads)
    out = torch.empty(qkv.shape[0], width, dtype=qkv.dtype, device=qkv.device)
    chosen = plan(heads, width // heads, block_tokens, qkv.dtype)
    grid = (triton.cdiv(longest, chosen.constants["BLOCK_M"]), heads, len(contexts))
    where = (starts, contexts, tables, tables.shape[1])
    chosen.launch(grid, qkv.device, qkv, cache, out, *where, scale)
    return out


@cache
def plan(heads: int, head_size: int, block_tokens: int, dtype: torch.dtype) -> Variant:
    """The kernel and its constants. Products of float32 are not for the matrix units: their
    operands wait in registers."""
    kind = element(dtype)
    types = dict.fromkeys(("qkv_ptr", "cache_ptr", "out_ptr"), f"*{kind}")
    types |= dict.fromkeys(("starts_ptr", "contexts_ptr", "tables_ptr"), "*i32")
    types |= {"table_width": "i32", "scale": "fp32"}
    block_d = max(16, triton.next_power_of_2(head_size))
    if dtype == torch.float32:
        block_m, block_n, warps, stages = 32, 16, 8, 2
    elif block_d > 128:
        block_m, block_n, warps, stages = 32, 32, 4, 2
    else:
        block_m, block_n, warps, stages = 128, 64, 8, 2
    constants = {
        "HEADS": heads,
        "D": head_size,
        "BLOCK_D": block_d,
        "BLOCK_TOKENS": block_tokens,
        "BLOCK_M": block_m,
        "BLOCK_N": block_n,
        "PRECISION": "ieee",
    }
    name = f"attention_prefill {heads}x{head_size} {kind}"
    # Triton 3.6's compiler aims at 80 on sm_80 and spills; two programs may have 128 each.
    registers = {80: 128} if dtype == torch.float32 and block_d == 128 else {}
    return Variant(name, attention_prefill_kernel, types, constants, warps, stages, registers)


def variants(heads: int, head_size: int, dtype: str) -> Iterator[Variant]:
    """As used for a model of these heads, with blocks of 16 tokens."""
    yield plan(heads, head_size, 16, getattr(torch, dtype))
