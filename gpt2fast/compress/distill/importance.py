"""Which parts of a network matter most, judged by its weights alone.

A channel, a dimension of a head or a neuron lies between what writes to it and what reads it. The
product of the norms of the two is how much passes through it, and does not change when one is
multiplied and the other divided by the same number. LayerNorm's gains count as part of the matrix
that reads.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gpt2fast.model.gpt2 import GPT2, Block


def _most(importance: Tensor, count: int) -> Tensor:
    """Indices of the ``count`` largest along the last dimension, ascending."""
    return importance.topk(count, dim=-1).indices.sort(dim=-1).values


@torch.no_grad()
def important_channels(network: GPT2, count: int) -> Tensor:
    """``count`` channels of the residual stream (C,), ascending."""
    written = [network.wte.weight, network.wpe.weight]
    read = [network.head_weight * network.ln_f.weight]
    for block in network.h:
        assert isinstance(block, Block)
        written += [block.attn.c_proj.weight, block.mlp.c_proj.weight]
        read.append((block.ln_1.weight[:, None] * block.attn.c_attn.weight).T)
        read.append((block.ln_2.weight[:, None] * block.mlp.c_fc.weight).T)
    norms = [
        torch.stack([matrix.square().sum(0) for matrix in matrices]).sum(0).sqrt()
        for matrices in (written, read)
    ]
    return _most(norms[0] * norms[1], count)


@torch.no_grad()
def important_neurons(block: Block, count: int) -> Tensor:
    """``count`` neurons of the MLP, ascending."""
    read = (block.ln_2.weight[:, None] * block.mlp.c_fc.weight).norm(dim=0)
    return _most(read * block.mlp.c_proj.weight.norm(dim=1), count)


@torch.no_grad()
def important_head_parts(block: Block, heads: int, head_size: int) -> Tensor:
    """The columns of ``c_attn`` that ``heads`` heads of ``head_size`` keep: (3, heads, head_size)
    for queries, keys and values. Queries and keys keep the same dimensions of a head."""
    attention = block.attn
    columns = (block.ln_1.weight[:, None] * attention.c_attn.weight).norm(dim=0)
    query, key, value = columns.view(3, attention.n_head, -1)  # (H, D) each
    output = attention.c_proj.weight.norm(dim=1).view(attention.n_head, -1)
    matched, mixed = query * key, value * output
    kept = _most(mixed.square().sum(-1), heads)
    size = query.shape[-1]
    base = (kept * size)[:, None]
    pairs, values = (base + _most(part[kept], head_size) for part in (matched, mixed))
    all_heads = attention.n_head * size
    return torch.stack([pairs, pairs + all_heads, values + 2 * all_heads])
