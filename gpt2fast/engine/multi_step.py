"""Several steps in one call of the runner, and on runners that run ahead the next call made before
the tokens of the last one are looked at.

What a call computed for a sequence that has meanwhile ended, or given its blocks back, is ignored:
the runner's work is in order, so nothing that is written into those blocks later is touched by it.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gpt2fast.engine.batch import Chunk, assemble, block_tables
from gpt2fast.engine.block_pool import BlockPool
from gpt2fast.engine.sample_step import needs_logits, sampling_by_runner, stop_tokens
from gpt2fast.engine.sequence import Sequence
from gpt2fast.runners.base import KnownTokens, PendingTokens, SamplingRunner

# Seconds that one call may take where somebody reads the text as it comes, and where stop strings
# are looked for, which only the host finds. Other calls take as many steps as the runner can:
# whatever comes in meanwhile ends them.
_STREAMED_CALL = 0.016
_SEARCHED_CALL = 0.05


@dataclass(frozen=True, slots=True)
class InFlightSequence:
    """A sequence as a call found it."""

    sequence: Sequence
    handle: int  # of the sequence in the block pool
    start: int  # tokens that were cached before
    num_tokens: int  # run by the first step
    num_logits: int  # rows of logits: 1 where a token is chosen

    @property
    def is_current(self) -> bool:
        """Whether what the call computed is still what follows in the sequence."""
        return self.sequence.handle == self.handle and self.sequence.num_computed == self.start

    def tokens_run(self, chosen: list[int]) -> NDArray[np.int32]:
        """Inputs of the call, which are in the cache now; ``chosen`` were its outputs."""
        first = self.sequence.window_start + self.start
        tokens = self.sequence.token_ids[first : first + self.num_tokens]
        return np.array(tokens + chosen[:-1], dtype=np.int32)


@dataclass(frozen=True)
class InFlightStep:
    """A call of the runner, of one step or of several."""

    sequences: list[InFlightSequence]
    steps: int  # at most
    pending: PendingTokens  # (R, steps), one row for each row of logits
    logits: NDArray[np.float32] | None  # (R, V), where some are looked at
    start_time: float

    @property
    def is_wanted(self) -> bool:
        """Whether any sequence still waits for its tokens."""
        return any(each.is_current for each in self.sequences)


class MultiStepScheduler:
    """Makes the calls of one runner."""

    def __init__(self, runner: SamplingRunner, pool: BlockPool) -> None:
        self.runner, self.pool = runner, pool
        self._step_seconds = 0.0  # of the last call of single tokens

    def launch(self, chunks: list[Chunk]) -> InFlightStep:
        """Run the scheduled ``chunks``, whose blocks must have been copied."""
        start = time.perf_counter()
        members = [
            InFlightSequence(
                c.sequence, c.handle, c.sequence.num_computed, c.num_tokens, c.num_logits
            )
            for c in chunks
        ]
        sampled = [c.sequence for c in chunks for _ in range(c.num_logits)]
        by_runner = self.runner.processes_logits
        if not sampled:
            self.runner.step(assemble(chunks, self.pool, self.runner.block_size))
            nothing = KnownTokens(np.empty((0, 1), np.int32))
            return InFlightStep(members, 1, nothing, None, start)
        sampling = sampling_by_runner(sampled, by_runner)
        if any(needs_logits(each, by_runner) for each in sampled):
            batch = assemble(chunks, self.pool, self.runner.block_size)
            logits, tokens = self.runner.step_and_sample(batch, sampling)
            return InFlightStep(members, 1, KnownTokens(tokens[:, None]), logits, start)
        steps = 1
        if all(c.num_tokens == c.num_logits == 1 for c in chunks):
            steps = max(1, self._num_steps(members, 0))
            if steps > 1 and not self._reserve(members, 1, steps):
                steps = 1
        batch = assemble(chunks, self.pool, self.runner.block_size, steps)
        pending = self.runner.sample(batch, sampling, steps, stop_tokens(sampled))
        return InFlightStep(members, steps, pending, None, start)

    def launch_next(self, last: InFlightStep) -> InFlightStep | None:
        """What follows ``last``, whose tokens are not known yet; None if the runner does not run
        ahead, some sequence has ended or has no room for more, or none wants more."""
        members = last.sequences
        if not self.runner.runs_ahead or last.logits is not None:
            return None
        if not all(m.num_tokens == m.num_logits == 1 for m in members):
            return None
        steps = self._num_steps(members, last.steps)
        members = [
            InFlightSequence(m.sequence, m.handle, m.start + last.steps, 1, 1) for m in members
        ]
        if steps < 1 or not _all_live(members) or not self._reserve(members, 0, steps):
            return None
        longest = max(member.start for member in members) + steps
        handles = [member.handle for member in members]
        tables = block_tables(handles, longest, self.pool, self.runner.block_size)
        pending = self.runner.sample_more(tables, steps)
        return InFlightStep(members, steps, pending, None, time.perf_counter())

    def observe(self, step: InFlightStep, done: int) -> None:
        """Learn how long a step takes from a call that has ended after ``done`` of them."""
        if done and all(m.num_tokens == 1 for m in step.sequences):
            self._step_seconds = (time.perf_counter() - step.start_time) / done

    def _num_steps(self, members: list[InFlightSequence], ahead: int) -> int:
        """Steps from ``ahead`` tokens from now on that requests want and contexts have room for, in
        the time that a call may take; 0 or less where there are none.

        A runner that runs ahead goes on as long as any request wants; others go on until the first
        one ends, as what follows would be computed for nobody.
        """
        left = [m.sequence.request.max_tokens - m.sequence.num_output for m in members]
        wanted = max(left) if self.runner.runs_ahead else min(left)
        room = self.runner.config.n_positions - max(m.start for m in members)
        steps = min(self.runner.max_steps, wanted - ahead, room - ahead)
        most = math.inf
        if any(m.sequence.request.is_streamed for m in members):
            most = _STREAMED_CALL
        elif any(m.sequence.stop_strings is not None for m in members):
            most = _SEARCHED_CALL
        if most < math.inf and not self._step_seconds:
            return min(steps, 1)  # how long a step takes is not known yet
        if self._step_seconds * steps <= most:
            return steps
        return min(steps, max(1, int(most / self._step_seconds)))

    def _reserve(self, members: list[InFlightSequence], reserved: int, steps: int) -> bool:
        """Room for ``steps`` tokens of each, of which they have it for the first ``reserved``;
        False, and nothing is changed, if the cache has not so much."""
        size = self.runner.block_size
        needed = sum(
            -(-(m.start + steps) // size) - -(-(m.start + reserved) // size) for m in members
        )
        if needed > self.pool.num_free:
            return False
        for member in members:
            copies = self.pool.reserve(member.handle, member.start + steps)
            assert not copies, "the block that a sequence writes to is its own already"
        return True


def _all_live(members: list[InFlightSequence]) -> bool:
    """Whether all hold their blocks still: slots of finished sequences would be wasted."""
    return all(member.sequence.handle == member.handle for member in members)
