"""The one interface between the engine, which knows no device, and what runs a forward step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from gpt2fast import _C
from gpt2fast.config import ModelConfig
from gpt2fast.errors import OptionError


@dataclass(frozen=True)
class StepBatch:
    """One forward step over S sequences: any mix of prefill chunks and single decode tokens.

    The new tokens of all sequences are concatenated to T rows. Row ``i`` of sequence ``s`` has the
    position ``context_lens[s] + i - query_starts[s]``; its keys and values are stored in the block
    ``block_tables[s, position // block_size]`` at slot ``position % block_size``.
    """

    token_ids: NDArray[np.int32]  # (T,)
    query_starts: NDArray[np.int32]  # (S + 1,): rows of sequence s are [starts[s], starts[s + 1])
    context_lens: NDArray[np.int32]  # (S,): tokens already in the cache before this step
    block_tables: NDArray[np.int32]  # (S, M): unused entries are -1
    logit_rows: NDArray[np.int32]  # (R,): the rows of T whose logits are wanted

    @property
    def counts(self) -> NDArray[np.int32]:
        """(S,): rows of each sequence."""
        return np.diff(self.query_starts)

    def locate_rows(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The sequence (T,) and the position (T,) of each row."""
        counts = self.counts
        owner = np.repeat(np.arange(len(counts)), counts)
        within = np.arange(len(self.token_ids)) - self.query_starts[owner]
        return owner, self.context_lens[owner] + within


class Runner(Protocol):
    """A model with its KV cache storage on one device. Block tables are kept outside."""

    config: ModelConfig
    block_size: int  # tokens in a cache block
    num_blocks: int  # blocks in the cache storage
    max_batch_tokens: int  # the largest T of a step
    max_seqs: int  # the largest S of a step

    def step(self, batch: StepBatch) -> NDArray[np.float32]:
        """Run one step, write keys and values to the cache, and return logits (R, V).

        The array may be a buffer of the runner's that the next step overwrites.
        """
        ...

    def copy_blocks(self, pairs: NDArray[np.int32]) -> None:
        """Copy cache blocks, all layers: ``pairs`` (N, 2) holds (source, destination)."""
        ...


def check_sizes(runner: Runner) -> None:
    """Raises OptionError naming a size of ``runner`` that is less than one."""
    for name in ("block_size", "num_blocks", "max_batch_tokens", "max_seqs"):
        value = getattr(runner, name)
        if value < 1:
            raise OptionError(f"{name} = {value} is not valid; give at least 1")


@dataclass(frozen=True)
class RowSampling:
    """How a token is chosen from each of R rows of logits.

    The filters are those of ``SamplingParams``. A random choice is a pure function of the logits,
    the seed, the stream and the number of the draw (``csrc/kernels/philox.h``).
    """

    temperature: NDArray[np.float32]  # (R,): 0 takes the most likely token
    top_k: NDArray[np.int32]  # (R,): 0 is off
    top_p: NDArray[np.float32]  # (R,): 1 is off
    min_p: NDArray[np.float32]  # (R,): 0 is off
    seed: NDArray[np.uint64]  # (R,)
    stream: NDArray[np.int32]  # (R,)
    draw: NDArray[np.int32]  # (R,): one more for each further token
    # Bias, penalties and banned tokens of each row, applied first; [] where no row has any.
    processing: Sequence[_C.LogitsProcessing | None] = ()

    @property
    def is_filtered(self) -> bool:
        """Whether any row is drawn from less than the whole vocabulary."""
        filters = (self.top_k > 0) | (self.top_p < 1.0) | (self.min_p > 0.0)
        return bool((filters & (self.temperature > 0.0)).any())

    def native(self) -> _C.SamplingRows:
        """The same for the C++ core."""
        return _C.SamplingRows(
            self.temperature,
            self.top_k,
            self.top_p,
            self.min_p,
            self.seed,
            self.stream,
            self.draw,
            self.processing,
        )


class PendingTokens(Protocol):
    """Tokens that are being chosen."""

    @property
    def times(self) -> NDArray[np.float64] | None:
        """(steps,): seconds of ``time.perf_counter`` at which each step ended, where they are
        known; after ``wait``."""
        ...

    def wait(self) -> NDArray[np.int32]:
        """(R, steps), or fewer columns where the runner stopped early.

        A value below 0 says why there is no token, as ``_C.sample`` does; what follows it is
        anything.
        """
        ...


class KnownTokens:
    """Tokens that were chosen already: ``PendingTokens``."""

    def __init__(self, tokens: NDArray[np.int32], times: NDArray[np.float64] | None = None) -> None:
        self._tokens, self.times = tokens, times

    def wait(self) -> NDArray[np.int32]:
        """(R, steps)"""
        return self._tokens


NO_TOKENS = np.empty(0, np.int32)


@runtime_checkable
class SamplingRunner(Runner, Protocol):
    """A runner that chooses tokens itself, and can take several steps in one call."""

    max_steps: int  # the most tokens of a sequence in one call
    processes_logits: bool  # ``RowSampling.processing`` is honoured; else no row may have any
    runs_ahead: bool  # the next call can be made before the tokens of the last one are known
    stop_flag: _C.StopFlag  # ends a call of several steps early; for any thread to set

    def sample(
        self,
        batch: StepBatch,
        sampling: RowSampling,
        steps: int = 1,
        stop_tokens: NDArray[np.int32] = NO_TOKENS,
    ) -> PendingTokens:
        """Run one step and choose a token for each row whose logits are wanted.

        With more ``steps``, each row of the batch is one sequence's single token; the token chosen
        is its next input, ``steps`` times in all, or until one of ``stop_tokens`` is chosen, if the
        runner looks. ``block_tables`` has room for all of them.
        """
        ...

    def sample_more(self, block_tables: NDArray[np.int32], steps: int) -> PendingTokens:
        """Where it ``runs_ahead``: go on with the sequences of the last ``sample``, of single
        tokens, or ``sample_more``, whose tokens need not be known yet; the cache is theirs alone
        meanwhile."""
        ...

    def step_and_sample(
        self, batch: StepBatch, sampling: RowSampling
    ) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        """What ``step`` returns, and a token chosen from each of its rows (R,)."""
        ...
