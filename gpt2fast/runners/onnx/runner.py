"""The engine's steps on onnxruntime, with buffers bound once. No torch on the CPU.

A cache block is a whole context, because the graph's attention reads a sequence from one run of
memory; the engine's block tables need no change for that.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gpt2fast.errors import OptionError, UnsupportedError
from gpt2fast.runners.base import StepBatch, check_sizes
from gpt2fast.runners.cpu import check_threads
from gpt2fast.runners.onnx.cache import Cache, GrownCache, SharedCache
from gpt2fast.runners.onnx.huge_pages import collapsed
from gpt2fast.runners.onnx.session import Session

if TYPE_CHECKING:
    from gpt2fast.checkpoint import Export


class _Run(NamedTuple):
    """One call of the graph: sequences in neighbouring slots, with equally many new tokens."""

    slot: int  # of the first
    rows: NDArray[np.int64]  # (B, S): which of the step's
    contexts: NDArray[np.int32]  # (B,): tokens cached before

    def keep(self, wanted: NDArray[np.int32]) -> int:
        """Rows whose logits are computed, of each sequence its last: enough for ``wanted``."""
        if self.rows.shape[1] == 1 or not len(wanted):
            return 1
        return int(self.rows[0, -1] - wanted.min()) + 1


class OnnxRunner:
    """Runs an export.

    Args:
        export: what ``open_model`` found.
        device: "cpu", "cuda" or "cuda:<index>", of onnxruntime's providers.
        num_threads: of the CPU; default: one for each physical core.
        num_blocks: sequences that the cache has room for.
        max_batch_tokens: the largest number of new tokens in a step.
        max_seqs: the largest number of sequences in a step.

    Raises what ``Session`` raises, and OptionError for what is out of range.
    """

    def __init__(
        self,
        export: Export,
        *,
        device: str = "cpu",
        num_threads: int | None = None,
        num_blocks: int,
        max_batch_tokens: int = 512,
        max_seqs: int = 64,
    ) -> None:
        self.config = export.config
        self.block_size, self.num_blocks = self.config.n_positions, num_blocks
        self.max_batch_tokens, self.max_seqs = max_batch_tokens, max_seqs
        check_sizes(self)
        if device != "cpu" and num_threads is not None:
            raise OptionError(f"num_threads = {num_threads} is for the CPU; leave it out")
        with collapsed():
            self._session = Session(export.graph, device, check_threads(num_threads))
        self._session.check(self.config)
        self.kv_cache_dtype = self._session.element
        self._cache = self._make_cache(num_blocks)
        self._logits = np.empty((0, self.config.vocab_size), np.float32)

    @property
    def bytes_per_step(self) -> int:
        """Bytes of weights that a decode step at batch 1 reads."""
        return int(self._session.facts["bytes_per_step"])

    def step(self, batch: StepBatch) -> NDArray[np.float32]:
        """Run one step; the rows returned are overwritten by the next one."""
        wanted = batch.logit_rows
        if len(wanted) > len(self._logits):
            self._logits = np.empty((len(wanted), self.config.vocab_size), np.float32)
        for run in _runs(batch, self._cache.most):
            hits = np.flatnonzero(np.isin(wanted, run.rows))
            keep = run.keep(wanted[hits])
            computed = run.rows[:, -keep:].ravel()
            if self._is_place_for(wanted, hits, computed):
                self._forward(batch, run, keep, self._logits[hits[0] : hits[0] + len(hits)])
            else:
                rows = np.empty((len(computed), self.config.vocab_size), self._session.element)
                self._forward(batch, run, keep, rows)
                order = np.argsort(computed)
                self._logits[hits] = rows[
                    order[np.searchsorted(computed, wanted[hits], sorter=order)]
                ]
        return self._logits[: len(wanted)]

    def _is_place_for(
        self, wanted: NDArray[np.int32], hits: NDArray[np.int64], computed: NDArray[np.int64]
    ) -> bool:
        """Whether the graph can write what it computes where the engine will read it."""
        if self._session.element != "float32" or len(hits) != len(computed):
            return False
        one_run = bool(hits[-1] - hits[0] + 1 == len(hits))
        return one_run and np.array_equal(wanted[hits], computed)

    def copy_blocks(self, pairs: NDArray[np.int32]) -> None:
        """Copy what slots hold, all layers: ``pairs`` (N, 2) holds (source, destination)."""
        self._cache.copy(pairs)

    def _make_cache(self, slots: int) -> Cache:
        session = self._session
        if session.shares_cache:
            return SharedCache(session, self.config, slots)
        if session.device != "cpu":
            raise UnsupportedError(
                "this export hands back a longer cache at each step, which runs on the cpu alone; "
                "export it with target 'ort'"
            )
        return GrownCache(session, self.config, slots)

    def _forward(self, batch: StepBatch, run: _Run, keep: int, out: NDArray[Any]) -> None:
        """Write logits (B * keep, V) of the last rows of each sequence to ``out``."""
        (count, new), longest = run.rows.shape, int(run.contexts.max())
        columns, lengths = np.arange(longest + new), run.contexts[:, None] + new
        given = {
            "input_ids": batch.token_ids[run.rows].astype(np.int64),
            "attention_mask": (columns < lengths).astype(np.int64),
            "position_ids": run.contexts[:, None] + np.arange(new, dtype=np.int64),
        }
        binding = self._cache.bind(run.slot, count, longest, new)
        for name, array in given.items():
            binding.bind_cpu_input(name, array)
        # An input that has a default can be bound as a value alone.
        value = self._session.api.OrtValue.ortvalue_from_numpy(np.array(keep, np.int64))
        binding.bind_ortvalue_input("num_logits_to_keep", value)
        shape = (count, keep, self.config.vocab_size)
        binding.bind_output("logits", "cpu", 0, out.dtype, shape, out.ctypes.data)
        self._session.run_on.run_with_iobinding(binding)
        self._cache.keep(binding, run.slot)


def _runs(batch: StepBatch, most: int) -> Iterator[_Run]:
    """A prompt's chunk is a call of its own; single tokens share one where their slots touch."""
    slots, counts = batch.block_tables[:, 0], batch.counts
    single: list[int] = []
    for sequence in np.argsort(slots, kind="stable").tolist():
        if counts[sequence] == 0:
            continue
        touches = single and slots[sequence] == slots[single[-1]] + 1 and len(single) < most
        if single and not (touches and counts[sequence] == 1 and batch.context_lens[sequence]):
            yield _run(batch, single)
            single = []
        single.append(sequence)
        if counts[sequence] > 1 or not batch.context_lens[sequence]:
            yield _run(batch, single)
            single = []
    if single:
        yield _run(batch, single)


def _run(batch: StepBatch, sequences: list[int]) -> _Run:
    count = int(batch.counts[sequences[0]])
    rows = batch.query_starts[sequences][:, None] + np.arange(count)
    return _Run(int(batch.block_tables[sequences[0], 0]), rows, batch.context_lens[sequences])
