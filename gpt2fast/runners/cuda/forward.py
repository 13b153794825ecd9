"""The kernels of one step, in order, whoever launches them: at once, or recorded into a graph.

Shapes: T rows of a step, S sequences, C width, H heads of a layer, D head size.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gpt2fast.config import ModelConfig
from gpt2fast.kernels.triton.attention_decode import (
    SPLITS,
    TILES,
    SplitWorkspace,
    attention_decode,
)
from gpt2fast.kernels.triton.attention_prefill import attention_prefill
from gpt2fast.kernels.triton.cache_append import cache_append
from gpt2fast.kernels.triton.embedding import embedding
from gpt2fast.kernels.triton.linear import linear
from gpt2fast.runners.base import StepBatch
from gpt2fast.runners.cuda.device import multiprocessors
from gpt2fast.runners.cuda.weights import Weights

_TOKENS_A_SPLIT = TILES[0]  # that are worth a program of their own
_PROGRAMS_A_MULTIPROCESSOR = 16  # of two warps each: beyond, splits only wait for each other


@dataclass(frozen=True)
class SingleTokens:
    """Where one new token a sequence stands: contexts (S,), tables (S, M), both int32; programs
    that share a head's keys, and tokens that each takes at a time."""

    contexts: Tensor
    tables: Tensor
    splits: int
    tile: int


@dataclass(frozen=True)
class Chunks:
    """Where rows stand that are any number a sequence: starts (S + 1,), contexts (S,), tables
    (S, M): int32, as in ``StepBatch``."""

    starts: Tensor
    contexts: Tensor
    tables: Tensor
    longest: int


class Forward:
    """The model on the GPU with its cache: (blocks, 2, H, block tokens, D) a layer."""

    def __init__(
        self, config: ModelConfig, weights: Weights, num_blocks: int, block_size: int, max_seqs: int
    ) -> None:
        self.config, self.weights = config, weights
        self.dtype, self.device = weights.positions.dtype, weights.positions.device
        self._heads = [shape.n_head for shape in config.layer_shapes]
        self._most_heads = max(self._heads)
        # Layers of as many heads lie together, to be copied at once. Only slots that were written
        # are ever read.
        self._storage = {
            heads: torch.empty(
                (count, num_blocks, 2, heads, block_size, config.head_size),
                dtype=self.dtype,
                device=self.device,
            )
            for heads, count in Counter(self._heads).items()
        }
        parts = {heads: iter(storage) for heads, storage in self._storage.items()}
        self.cache = [next(parts[heads]) for heads in self._heads]
        slots = max(64, 1 << (max_seqs - 1).bit_length())
        self._workspace = SplitWorkspace(
            slots, self._most_heads, config.head_size, SPLITS[-1], self.device
        )
        self._programs = _PROGRAMS_A_MULTIPROCESSOR * multiprocessors(self.device)

    def hidden(self, tokens: Tensor, positions: Tensor, where: SingleTokens | Chunks) -> Tensor:
        """tokens (T,), positions (T,) int32 -> what the head takes, (T, C)."""
        x = embedding(tokens, positions, self.weights.tokens, self.weights.positions)
        activation = self.config.activation_function
        for index, layer in enumerate(self.weights.layers):
            attended = self._attend(index, linear(x, layer.attention_in), where)
            x = linear(attended, layer.attention_out, residual=x)
            inner = linear(x, layer.mlp_in, activation=activation)
            x = linear(inner, layer.mlp_out, residual=x)
        return x

    def _attend(self, layer: int, qkv: Tensor, where: SingleTokens | Chunks) -> Tensor:
        """qkv (T, 3 H D) -> (T, H D); stores the keys and values of the rows as well."""
        cache, heads = self.cache[layer], self._heads[layer]
        scale = self.config.attention_scale(layer)
        if isinstance(where, SingleTokens):
            return attention_decode(
                qkv, cache, where.contexts, where.tables, heads, scale, where.splits,
                self._workspace, where.tile,
            )  # fmt: skip
        rows = (where.starts, where.contexts, where.tables)
        cache_append(qkv, cache, *rows, heads, where.longest)
        return attention_prefill(qkv, cache, *rows, heads, scale, where.longest)

    def copy_blocks(self, source: Tensor, destination: Tensor) -> None:
        """Copy blocks (N,) of the cache to others (N,), all layers."""
        for storage in self._storage.values():
            storage[:, destination] = storage[:, source]

    def share(self, sequences: int, context: int) -> tuple[int, int]:
        """Programs that share a head's keys, enough for the context and no more than the GPU has
        room for; tokens that each takes at a time."""
        enough = next((s for s in SPLITS if context <= s * _TOKENS_A_SPLIT), SPLITS[-1])
        room = self._programs // (sequences * self._most_heads)
        splits = max((s for s in SPLITS if s <= min(enough, room)), default=1)
        return splits, next((t for t in TILES if context <= splits * t), TILES[-1])

    def inputs(self, batch: StepBatch) -> tuple[Tensor, Tensor, SingleTokens | Chunks]:
        """Tokens (T,), positions (T,) of a batch and where its cache is, on the GPU."""
        counts, (_, positions) = batch.counts, batch.locate_rows()
        arrays: tuple[NDArray[np.integer], ...] = (
            batch.token_ids, positions, batch.query_starts, batch.context_lens,
            batch.block_tables.ravel(),
        )  # fmt: skip
        # One copy to the GPU for all of them; each begins at a whole vector.
        sizes = [-(-len(array) // 4) * 4 for array in arrays]
        packed = np.zeros(sum(sizes), np.int32)
        ends = np.cumsum(sizes)
        for array, size, end in zip(arrays, sizes, ends, strict=True):
            packed[end - size : end - size + len(array)] = array
        parts = [
            part[: len(array)]
            for part, array in zip(
                torch.from_numpy(packed).to(self.device).split(sizes), arrays, strict=True
            )
        ]
        tokens, position_ids, starts, contexts, tables = parts
        tables = tables.view(batch.block_tables.shape)
        if bool((counts == 1).all()):
            share = self.share(len(counts), int(positions.max(initial=0)))
            return tokens, position_ids, SingleTokens(contexts, tables, *share)
        return tokens, position_ids, Chunks(starts, contexts, tables, int(counts.max(initial=0)))
