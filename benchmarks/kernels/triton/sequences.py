"""Sequences in a paged cache for the benchmarks of attention, and attention in plain torch."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

BLOCK_TOKENS = 16
HEAD_SIZE = 64


class Paged(NamedTuple):
    """New rows of S sequences and the cache of one layer.

    Attributes:
        qkv: (T, 3 C) float16.
        cache: (blocks, 2, H, 16, D); NaN where nothing was written.
        starts: (S + 1,) int32; rows of sequence s are [starts[s], starts[s + 1]).
        contexts: (S,) int32, tokens before these.
        tables: (S, M) int32, blocks in no order.
        q, k, v: the same contiguous, (S, H, new, D) and (S, H, context + new, D).
    """

    qkv: Tensor
    cache: Tensor
    starts: Tensor
    contexts: Tensor
    tables: Tensor
    q: Tensor
    k: Tensor
    v: Tensor


def make(sequences: int, context: int, new: int, heads: int, device: torch.device) -> Paged:
    """``sequences`` of ``context`` cached tokens and ``new`` ones, of which none is stored."""
    width, length = heads * HEAD_SIZE, context + new
    whole = torch.randn(sequences, length, 3, heads, HEAD_SIZE, device=device, dtype=torch.float16)
    q, k, v = whole.permute(2, 0, 3, 1, 4)
    columns = -(-length // BLOCK_TOKENS)
    blocks = sequences * columns
    tables = torch.randperm(blocks, device=device, dtype=torch.int64).view(sequences, columns)
    shape = (blocks, 2, heads, BLOCK_TOKENS, HEAD_SIZE)
    cache = torch.full(shape, float("nan"), device=device, dtype=torch.float16)
    store(cache, tables, k[:, :, :context], v[:, :, :context])
    return Paged(
        qkv=whole[:, context:].reshape(sequences * new, 3 * width).contiguous(),
        cache=cache,
        starts=torch.arange(sequences + 1, device=device, dtype=torch.int32) * new,
        contexts=torch.full((sequences,), context, device=device, dtype=torch.int32),
        tables=tables.int(),
        q=q[:, :, context:].contiguous(),
        k=k.contiguous(),
        v=v.contiguous(),
    )


def store(cache: Tensor, tables: Tensor, k: Tensor, v: Tensor, first: int = 0) -> None:
    """Put k, v (S, H, n, D), the tokens from ``first`` on, where ``tables`` (S, M) int64 say."""
    token = torch.arange(first, first + k.shape[2], device=k.device)
    block = tables[:, token // BLOCK_TOKENS]  # (S, n)
    slot = (token % BLOCK_TOKENS).expand_as(block)
    cache[block, 0, :, slot] = k.transpose(1, 2)
    cache[block, 1, :, slot] = v.transpose(1, 2)


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal attention of the last tokens in float32: (S, H, n, D) -> (S * n, C)."""
    context = k.shape[2] - q.shape[2]
    rows = []
    for q_one, k_one, v_one in zip(q, k, v, strict=True):
        scores = q_one.float() @ k_one.float().transpose(-1, -2) * HEAD_SIZE**-0.5
        position = torch.arange(q.shape[2], device=q.device) + context
        hidden = torch.arange(k.shape[2], device=q.device) > position[:, None]
        weights = scores.masked_fill(hidden, float("-inf")).softmax(-1)
        rows.append((weights @ v_one.float()).transpose(0, 1).flatten(1))
    return torch.cat(rows)
