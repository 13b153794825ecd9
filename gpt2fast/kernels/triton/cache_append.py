"""Storing the keys and values of new tokens."""

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


@triton.jit(do_not_specialize=["table_width"])
def cache_append_kernel(
    qkv_ptr,  # (T, 3 * H * D)
    cache_ptr,  # (blocks, 2, H, BLOCK_TOKENS, D)
    starts_ptr,  # (S + 1,): rows of sequence s are [starts[s], starts[s + 1])
    contexts_ptr,  # (S,): tokens of sequence s before these
    tables_ptr,  # (S, table_width)
    table_width,
    HEADS: tl.constexpr,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_TOKENS: tl.constexpr,
    ROWS: tl.constexpr,
    DEPENDENT: tl.constexpr,
):
    """cache[table[t / BLOCK_TOKENS], :, :, t % BLOCK_TOKENS] = (k, v) of the tokens t of a row.

    Grid (rows of the longest sequence / ROWS, H, S): each program stores ROWS rows of one head.
    """
    launch_dependents(DEPENDENT)
    wait(DEPENDENT)
    head, sequence = tl.program_id(1), tl.program_id(2)
    first = tl.load(starts_ptr + sequence)
    count = tl.load(starts_ptr + sequence + 1) - first
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    present = row < count
    token = tl.load(contexts_ptr + sequence) + row
    table = tables_ptr + sequence.to(tl.int64) * table_width
    to = key_offsets(table, token, present, head, HEADS, D, BLOCK_TOKENS)
    d = tl.arange(0, BLOCK_D)
    inside = present[:, None] & (d < D)[None, :]
    source = (first + row).to(tl.int64)[:, None] * (3 * HEADS * D) + (head * D + d)[None, :]
    key = tl.load(qkv_ptr + source + HEADS * D, mask=inside)
    value = tl.load(qkv_ptr + source + 2 * HEADS * D, mask=inside)
    tl.store(cache_ptr + to[:, None] + d[None, :], key, mask=inside)
    tl.store(cache_ptr + to[:, None] + d[None, :] + HEADS * BLOCK_TOKENS * D, value, mask=inside)


def cache_append(
    qkv: Tensor,
    cache: Tensor,
    starts: Tensor,
    contexts: Tensor,
    tables: Tensor,
    heads: int,
    longest: int,
) -> None:
    """Store the keys and values of all rows in the cache of a layer.

    qkv (T, 3 H D); cache (blocks, 2, H, block tokens, D) of the same dtype; starts (S + 1,),
    contexts (S,), tables (S, M): int32, as in ``StepBatch``. ``longest``: the largest number of
    rows of a sequence.
    """
    head_size = qkv.shape[1] // (3 * heads)
    block_tokens = check_cache(cache, heads, head_size)
    chosen = plan(heads, head_size, block_tokens, qkv.dtype)
    grid = (triton.cdiv(longest, chosen.constants["ROWS"]), heads, len(contexts))
    where = (starts, contexts, tables, tables.shape[1])
    chosen.launch(grid, qkv.device, qkv, cache, *where)


@cache
def plan(heads: int, head_size: int, block_tokens: int, dtype: torch.dtype) -> Variant:
    """The kernel and its constants."""
    kind = element(dtype)
    types = dict.fromkeys(("qkv_ptr", "cache_ptr"), f"*{kind}")
    types |= dict.fromkeys(("starts_ptr", "contexts_ptr", "tables_ptr"), "*i32")
    types |= {"table_width": "i32"}
    constants = {
        "HEADS": heads,
        "D": head_size,
        "BLOCK_D": triton.next_power_of_2(head_size),
        "BLOCK_TOKENS": block_tokens,
        "ROWS": 16,
    }
    name = f"cache_append {heads}x{head_size} {kind}"
    return Variant(name, cache_append_kernel, types, constants, 2)


def variants(heads: int, head_size: int, dtype: str) -> Iterator[Variant]:
    """As used for a model of these heads, with blocks of 16 tokens."""
    yield plan(heads, head_size, 16, getattr(torch, dtype))
