"""The backend of an accelerated network: a runner with packed weights, block tables and a lock."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from torch import nn

from gpt2fast._C import BlockPool
from gpt2fast.checkpoint import Checkpoint
from gpt2fast.engine.batch import block_tables, step_batch
from gpt2fast.errors import CacheExhaustedError
from gpt2fast.hf.backend.fork_safe_lock import ForkSafeLock
from gpt2fast.hf.backend.last_run import LastRun
from gpt2fast.hf.backend.make_runner import MAX_BATCH_TOKENS, make_runner
from gpt2fast.hf.backend.options import Options, runner_device
from gpt2fast.hf.backend.unpad import Unpadding
from gpt2fast.hf.weights.fingerprint import WeightFingerprint
from gpt2fast.hf.weights.module_checkpoint import ModuleCheckpoint
from gpt2fast.runners import BLOCK_SIZE
from gpt2fast.runners.base import StepBatch

FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class UnavailableBackend:
    """Why a network has no backend; valid as long as the network matches the fingerprint."""

    reason: str
    fingerprint: WeightFingerprint


class Backend:
    """Runs an accelerated network's forward pass. Safe to call from several threads: each step
    holds the lock.

    Args:
        network: a transformers ``GPT2Model``.
        head: the linear layer of a language model on it, or None.
        options: how it runs.
        offload: free the memory of the parameters that were packed (``weights/offload.py``).
        checksums: keep a checksum of each weight, for a network that is trained: fused optimizers
            change weights without incrementing their version.

    Raises what runners raise, and ConfigError for a config that is not supported.
    """

    def __init__(
        self,
        network: nn.Module,
        head: nn.Module | None,
        options: Options,
        *,
        offload: bool = False,
        checksums: bool = False,
    ) -> None:
        before = WeightFingerprint(network, head)
        checkpoint = ModuleCheckpoint(network, head, offload=offload)
        self.config = checkpoint.config
        # The record of each call that runs here, shared because it is always the same.
        self.run_record = LastRun(runner_device(network, options).type)
        self.runner = make_runner(cast(Checkpoint, checkpoint), network, options)
        checkpoint.close()
        # Offloading changes addresses. Values are those from before packing: another thread may
        # have written to the weights meanwhile.
        self.fingerprint = WeightFingerprint(
            network, head, checksums=checksums, values=before.values
        )
        self.pool = BlockPool(self.runner.num_blocks, BLOCK_SIZE, False)
        self.lock = ForkSafeLock()

    def run(
        self,
        handles: list[int],
        ids: NDArray[np.int64],
        unpadding: Unpadding,
        last: int,
        *,
        logits: bool,
    ) -> FloatArray:
        """Run the real tokens of ``ids`` (B, S) and append them to the sequences ``handles``.

        Returns logits, or hidden states, of the ``last`` columns: (B, last, V or C), zeros at
        padding. Raises CacheExhaustedError; the sequences are then unchanged."""
        width = self.config.vocab_size if logits else self.config.n_embd
        batch, new = ids.shape
        out = np.zeros((batch, last, width), np.float32)
        with self.lock.rlock:
            lengths = [self.pool.length(handle) for handle in handles]
            try:
                for chunks in _split_into_steps(unpadding):
                    self._run_chunks(handles, ids, unpadding, chunks, out, new - last, logits)
            except CacheExhaustedError:
                for handle, length in zip(handles, lengths, strict=True):
                    self.pool.truncate(handle, length)
                raise
        return out

    def decode(
        self,
        handles: list[int],
        tokens: NDArray[np.int64],
        select: Callable[[FloatArray], Any],
    ) -> Any:
        """Append one token (B,) to each sequence of ``handles``. Returns the result of ``select``
        on the logits (B, V), a buffer that the next step overwrites.

        Raises CacheExhaustedError; the sequences are then unchanged.
        """
        if len(handles) > MAX_BATCH_TOKENS:
            unpadding = Unpadding(np.zeros(len(handles), np.int64), np.ones(len(handles), np.int64))
            return select(self.run(handles, tokens[:, None], unpadding, 1, logits=True)[:, 0])
        starts, rows = _decode_ranges(len(handles))
        new = tokens.astype(np.int32)
        with self.lock.rlock:
            contexts = [self.pool.length(handle) for handle in handles]
            self._reserve(handles, [context + 1 for context in contexts])
            selected = select(self.runner.step(self._batch(handles, contexts, new, starts, rows)))
            for row, handle in enumerate(handles):
                self.pool.commit(handle, new[row : row + 1])
        return selected

    def _run_chunks(
        self,
        handles: list[int],
        ids: NDArray[np.int64],
        unpadding: Unpadding,
        chunks: list[tuple[int, int, int]],
        out: FloatArray,
        skipped: int,
        logits: bool,
    ) -> None:
        """One step over ``chunks``: (row, begin, end), a range of one sequence's new tokens.
        Results of columns from ``skipped`` on go into ``out``."""
        members = [handles[row] for row, _, _ in chunks]
        contexts = [self.pool.length(handle) for handle in members]
        lengths = [c + end - begin for c, (_, begin, end) in zip(contexts, chunks, strict=True)]
        self._reserve(members, lengths)
        tokens, logit_rows, targets = [], [], []
        starts = [0]
        for row, begin, end in chunks:
            columns = np.arange(begin, end) + unpadding.first[row]
            tokens.append(ids[row, columns].astype(np.int32))
            kept = np.flatnonzero(columns >= skipped)
            logit_rows.append(starts[-1] + kept)
            targets += [(row, column - skipped) for column in columns[kept].tolist()]
            starts.append(starts[-1] + end - begin)
        batch = self._batch(
            members, contexts, np.concatenate(tokens), np.array(starts, np.int32),
            np.concatenate(logit_rows).astype(np.int32),
        )  # fmt: skip
        results = self.runner.step(batch) if logits else self.runner.hidden_states(batch)
        for handle, chunk in zip(members, tokens, strict=True):
            self.pool.commit(handle, chunk)
        if targets:
            rows, columns = np.array(targets).T
            out[rows, columns] = results

    def _reserve(self, handles: list[int], lengths: list[int]) -> None:
        """Reserve blocks for sequences of ``lengths``. Raises CacheExhaustedError when the pool is
        full; the blocks that earlier sequences of the list were to copy on write are copied even
        then."""
        copies: list[tuple[int, int]] = []
        try:
            for handle, length in zip(handles, lengths, strict=True):
                copies += self.pool.reserve(handle, length)
        finally:
            if copies:
                self.runner.copy_blocks(np.array(copies, np.int32))

    def _batch(
        self,
        handles: list[int],
        contexts: list[int],
        tokens: NDArray[np.int32],
        starts: NDArray[np.int32],
        logit_rows: NDArray[np.int32],
    ) -> StepBatch:
        longest = max(contexts) + len(tokens)  # an upper bound
        tables = block_tables(handles, longest, self.pool, BLOCK_SIZE)
        return step_batch(tokens, starts, contexts, logit_rows, tables)


@cache
def _decode_ranges(batch: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """``query_starts`` (B + 1,) and ``logit_rows`` (B,) of a step with one token a sequence."""
    return np.arange(batch + 1, dtype=np.int32), np.arange(batch, dtype=np.int32)


def _split_into_steps(unpadding: Unpadding) -> Iterator[list[tuple[int, int, int]]]:
    """Chunks (row, begin, end) of the sequences, at most MAX_BATCH_TOKENS tokens a step."""
    chunks: list[tuple[int, int, int]] = []
    room = MAX_BATCH_TOKENS
    for row, count in enumerate(unpadding.counts.tolist()):
        done = 0
        while done < count:
            size = min(room, count - done)
            chunks.append((row, done, done + size))
            done, room = done + size, room - size
            if room == 0:
                yield chunks
                chunks, room = [], MAX_BATCH_TOKENS
    if chunks:
        yield chunks
