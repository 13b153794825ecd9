"""Letting a runner that chooses tokens itself run on: several steps in one call, and the next call
made before the tokens of the last one are looked at.

A flight is such a call. What it computed for a sequence that has meanwhile ended, or given its
blocks back, is ignored: the runner's work is in order, so nothing that is written into those blocks
later is touched by it.
"""

from __future__ import annotations

from collections.abc import Sequence as ReadOnlyList
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gpt2fast.engine.batch import Chunk, assemble, block_tables
from gpt2fast.engine.block_pool import BlockPool
from gpt2fast.engine.sequence import Sequence
from gpt2fast.runners.base import PendingTokens, RowSampling, SamplingRunner
from gpt2fast.sampling_params import SamplingParams


@dataclass(frozen=True, slots=True)
class Member:
    """A sequence as a flight found it."""

    sequence: Sequence
    handle: int  # of the sequence in the block pool
    start: int  # tokens that were cached before

    @property
    def is_current(self) -> bool:
        """Whether the tokens of the flight are still the sequence's next ones."""
        return self.sequence.handle == self.handle and self.sequence.num_computed == self.start


@dataclass(frozen=True)
class Flight:
    """``steps`` tokens that are being chosen for each member."""

    members: list[Member]
    steps: int
    pending: PendingTokens

    @property
    def is_wanted(self) -> bool:
        """Whether any member still waits for its tokens."""
        return any(member.is_current for member in self.members)


def is_drawn_by_runner(sequence: Sequence) -> bool:
    """Whether a sampling runner chooses the next token, a property of the request alone.

    The first tokens of several completions come from one row of logits, which the host has.
    """
    request = sequence.request
    return request.drawn_by_runner and (request.params.n == 1 or sequence.num_output > 0)


def row_sampling(sequences: ReadOnlyList[Sequence]) -> RowSampling:
    """How the next token of each is to be chosen; greedily where the host does it."""
    params = [s.request.params for s in sequences]
    drawn = [p if isinstance(p, SamplingParams) else SamplingParams(temperature=0) for p in params]
    return RowSampling(
        temperature=np.array([p.temperature for p in drawn], np.float32),
        top_k=np.array([min(max(p.top_k, 0), 2**31 - 1) for p in drawn], np.int32),
        top_p=np.array([p.top_p for p in drawn], np.float32),
        min_p=np.array([p.min_p for p in drawn], np.float32),
        seed=np.array([s.request.seed for s in sequences], np.uint64),
        stream=np.array([s.index for s in sequences], np.int32),
        draw=np.array([s.num_output for s in sequences], np.int32),
    )


class Pilot:
    """Starts flights on one runner."""

    def __init__(self, runner: SamplingRunner, pool: BlockPool) -> None:
        self.runner, self.pool = runner, pool

    def take_off(self, chunks: list[Chunk]) -> Flight | None:
        """A flight of the scheduled ``chunks``; None unless all are single tokens of sequences
        whose next ones the runner chooses. Their blocks must have been copied."""
        if not all(c.num_tokens == 1 and c.completes for c in chunks):
            return None
        if not all(is_drawn_by_runner(c.sequence) for c in chunks):
            return None
        members = [Member(c.sequence, c.handle, c.sequence.num_computed) for c in chunks]
        steps = max(1, self._steps(members, 0))
        if steps > 1 and not self._reserve(members, 1, steps):
            steps = 1
        batch = assemble(chunks, self.pool, self.runner.block_size, steps)
        sampling = row_sampling([c.sequence for c in chunks])
        return Flight(members, steps, self.runner.sample(batch, sampling, steps))

    def fly_on(self, flight: Flight) -> Flight | None:
        """What follows ``flight``, whose tokens are not known yet; None if some member has ended
        or has no room for more, or none wants more."""
        steps = self._steps(flight.members, flight.steps)
        members = [Member(m.sequence, m.handle, m.start + flight.steps) for m in flight.members]
        if steps < 1 or not _all_live(members) or not self._reserve(members, 0, steps):
            return None
        longest = max(member.start for member in members) + steps
        handles = [member.handle for member in members]
        tables = block_tables(handles, longest, self.pool, self.runner.block_size)
        return Flight(members, steps, self.runner.sample_more(tables, steps))

    def _steps(self, members: list[Member], ahead: int) -> int:
        """As many as the longest request wants and every context has room for, ``ahead`` tokens
        from now; 0 or less where there is none."""
        wanted = max(m.sequence.request.max_tokens - m.sequence.num_output for m in members)
        longest = max(m.start for m in members)
        room = self.runner.config.n_positions - longest
        return min(self.runner.max_steps, wanted - ahead, room - ahead)

    def _reserve(self, members: list[Member], reserved: int, steps: int) -> bool:
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


def _all_live(members: list[Member]) -> bool:
    """Whether all hold their blocks still: the places of others would be computed in vain."""
    return all(member.sequence.handle == member.handle for member in members)


def tokens_fed(member: Member, chosen: NDArray[np.int32]) -> NDArray[np.int32]:
    """The inputs of a flight, which are in the cache now; ``chosen`` (steps,) were its outputs."""
    return np.concatenate([[member.sequence.token_ids[-1]], chosen[:-1]]).astype(np.int32)
