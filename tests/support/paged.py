"""Drives a runner directly: chunks of any size, block tables from the real block pool."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from gpt2fast._C import BlockPool
from gpt2fast.runners.base import Runner, StepBatch


class PagedSequences:
    """Token sequences in one runner's cache; each step may extend any of them by any chunk."""

    def __init__(self, runner: Runner, prefix_caching: bool = False) -> None:
        self.runner = runner
        self.pool = BlockPool(runner.num_blocks, runner.block_size, prefix_caching)

    def create(self, tokens: NDArray[np.int32]) -> tuple[int, int]:
        return self.pool.create(tokens)

    def step(self, chunks: Sequence[tuple[int, NDArray[np.int32]]]) -> list[NDArray[np.float32]]:
        """One step over (sequence, new tokens) pairs; logits of every new token, by sequence."""
        context = [self.pool.length(sequence) for sequence, _ in chunks]
        copies: list[tuple[int, int]] = []
        for (sequence, tokens), length in zip(chunks, context, strict=True):
            copies += self.pool.reserve(sequence, length + len(tokens))
        if copies:
            self.runner.copy_blocks(np.array(copies, np.int32))
        starts = np.cumsum([0] + [len(tokens) for _, tokens in chunks]).astype(np.int32)
        tables = np.full((len(chunks), self.runner.num_blocks), -1, np.int32)
        self.pool.fill_block_tables(np.array([s for s, _ in chunks], np.int64), tables)
        batch = StepBatch(
            token_ids=np.concatenate([tokens for _, tokens in chunks]).astype(np.int32),
            query_starts=starts,
            context_lens=np.array(context, np.int32),
            block_tables=tables,
            logit_rows=np.arange(starts[-1], dtype=np.int32),
        )
        logits = self.runner.step(batch).copy()
        for sequence, tokens in chunks:
            self.pool.commit(sequence, tokens)
        return [logits[a:b] for a, b in pairwise(starts)]

    def logits(self, tokens: NDArray[np.int32], chunks: Sequence[int]) -> NDArray[np.float32]:
        """Logits (T, V) of one sequence alone, prefilled in the given chunk sizes."""
        sequence, done = self.create(tokens)
        assert done == 0
        out = []
        for size in chunks:
            out += self.step([(sequence, tokens[done : done + size])])
            done += size
        self.pool.free(sequence)
        return np.concatenate(out)
