"""Which tokens run next: continuous batching, chunked prefill, preemption when the cache is full.

First come, first served. A sequence is *running* while it holds cache blocks, else *waiting*; both
lists are in order of arrival. When the cache is exhausted the newest running sequence gives its
blocks back and waits; its tokens are run again later, with an identical result. A beam whose next
tokens are known but not yet chosen, because its siblings are not that far, is *parked*: it keeps
its blocks while nobody needs them, and is not run.
"""

from __future__ import annotations

from bisect import bisect_left, insort

from gpt2fast.engine.batch import Chunk
from gpt2fast.engine.block_pool import BlockPool
from gpt2fast.engine.sequence import Request, Sequence
from gpt2fast.errors import CacheExhaustedError


def _order(sequence: Sequence) -> tuple[int, int]:
    return sequence.key


class Scheduler:
    """Turns waiting and running sequences into the chunks of one step."""

    def __init__(
        self, pool: BlockPool, block_size: int, max_batch_tokens: int, max_seqs: int
    ) -> None:
        self.pool = pool
        self.block_size = block_size
        self.max_batch_tokens = max_batch_tokens
        self.max_running = min(max_seqs, max_batch_tokens)  # all of them decode in one step
        self.waiting: list[Sequence] = []
        self.running: list[Sequence] = []
        self.num_preemptions = 0
        self.failed: list[tuple[Request, Exception]] = []  # since the engine last looked

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence that holds no blocks."""
        insort(self.waiting, sequence, key=_order)

    def add_fork(self, parent: Sequence, child: Sequence) -> None:
        """Let ``child``, a copy of ``parent``, share its blocks if it can run now, else wait."""
        if parent.handle is None or len(self.running) >= self.max_running:
            self.add(child)
            return
        child.handle = self.pool.fork(parent.handle)
        child.num_computed = parent.num_computed
        insort(self.running, child, key=_order)

    def remove(self, sequence: Sequence) -> None:
        """Forget a sequence and free its blocks. Does nothing for one that is not known."""
        _discard(self.running if sequence.handle is not None else self.waiting, sequence)
        self._free(sequence)

    def restart(self, sequence: Sequence) -> None:
        """Free the blocks of a sequence and let it wait to be run again from its window's start."""
        self.remove(sequence)
        if not sequence.parked:
            self.add(sequence)

    def unpark(self, sequence: Sequence) -> None:
        """Let a parked beam, which now has its next token, run on."""
        sequence.parked = False
        if sequence.handle is None:
            self.add(sequence)

    def preempt_newest(self) -> bool:
        """Make room by preempting the newest running sequence; False if none is running."""
        if not self.running:
            return False
        self._preempt(self.running[-1])
        return True

    @property
    def can_admit(self) -> bool:
        """Whether a waiting sequence could run, if the cache has room."""
        return bool(self.waiting) and len(self.running) < self.max_running

    def schedule(self) -> list[Chunk]:
        """The chunks of the next step, with room reserved for all of them; [] if nothing can run.

        Single decode tokens come first, so that prefill never delays them; the remaining token
        budget goes to prefill chunks of running, then of waiting sequences.
        """
        while True:
            chunks: dict[tuple[int, int], Chunk] = {}
            self._schedule_running(chunks)
            if self.waiting:
                self._admit_waiting(chunks)
            if chunks or not self.waiting or not self.running:
                return list(chunks.values())
            # All that run are parked beams, and they hold the room that their siblings need.
            self._preempt(self.running[-1])

    def _schedule_running(self, chunks: dict[tuple[int, int], Chunk]) -> None:
        prefilling = False
        position = 0
        while position < len(self.running):  # preemption shortens the list from its end
            sequence = self.running[position]
            position += 1
            pending = sequence.num_pending
            if pending == 1:
                self._schedule_chunk(sequence, 1, chunks)
            elif pending:
                prefilling = True
        position = 0
        while prefilling and position < len(self.running):
            sequence = self.running[position]
            position += 1
            pending = sequence.num_pending
            if pending > 1:
                budget = self._budget(chunks)
                if budget == 0:
                    return
                self._schedule_chunk(sequence, min(pending, budget), chunks)

    def _admit_waiting(self, chunks: dict[tuple[int, int], Chunk]) -> None:
        while self.waiting and len(self.running) < self.max_running:
            budget = self._budget(chunks)
            sequence = self.waiting[0]
            if budget == 0:
                return
            if self._admit(sequence):
                self._schedule_chunk(sequence, min(sequence.num_pending, budget), chunks)
            elif self.running:
                return
            # Otherwise it has failed, being alone; perhaps the next one fits.

    def _budget(self, chunks: dict[tuple[int, int], Chunk]) -> int:
        return self.max_batch_tokens - sum(chunk.num_tokens for chunk in chunks.values())

    def _admit(self, sequence: Sequence) -> bool:
        """Start a waiting sequence if its whole window fits beside the running ones."""
        window = sequence.window()
        # A reused prefix would not be run and so give no logits.
        handle, cached = self.pool.create(window[:1] if sequence.request.is_scored else window)
        needed = -(-len(window) // self.block_size) - cached // self.block_size
        # One block in reserve for each that may need it avoids preempting in the very next step.
        growing = sum(self._may_need_a_block(running) for running in self.running)
        if needed + growing > self.pool.num_free:
            self.pool.free(handle)
            if not self.running:
                self._fail(sequence, len(window))
            return False
        self.waiting.pop(0)
        sequence.handle, sequence.num_computed = handle, cached
        insort(self.running, sequence, key=_order)
        return True

    def _may_need_a_block(self, sequence: Sequence) -> bool:
        """Whether a running sequence can outgrow its blocks, or has to part with a sibling's."""
        request = sequence.request
        most = sequence.num_prompt + request.max_tokens - sequence.window_start
        known = len(sequence.token_ids) - sequence.window_start
        size = self.block_size
        return len(request.sequences) > 1 or -(-most // size) > -(-known // size)

    def _schedule_chunk(
        self, sequence: Sequence, count: int, chunks: dict[tuple[int, int], Chunk]
    ) -> None:
        """Reserve room for ``count`` tokens of a sequence, unless it has to give way itself."""
        handle = sequence.handle
        assert handle is not None
        while True:
            try:
                copies = self.pool.reserve(handle, sequence.num_computed + count)
                break
            except CacheExhaustedError:
                victim = self.running[-1]
                chunks.pop(victim.key, None)  # with its copies: their targets may be handed out
                if len(self.running) == 1:
                    self._fail(sequence, sequence.num_computed + count)
                    return
                self._preempt(victim)
                if victim is sequence:
                    return
        num_logits = int(count == sequence.num_pending)
        if sequence.request.is_scored:
            num_logits = count
        chunks[sequence.key] = Chunk(sequence, handle, count, copies, num_logits)

    def _preempt(self, sequence: Sequence) -> None:
        self.num_preemptions += 1
        self.restart(sequence)

    def _fail(self, sequence: Sequence, needed: int) -> None:
        for sibling in sequence.request.sequences:
            self.remove(sibling)
        capacity = self.pool.stats()["num_blocks"] * self.block_size
        error = CacheExhaustedError(
            f"request {sequence.request.request_id} needs {needed} tokens of KV cache, but the "
            f"whole cache holds {capacity}; raise kv_cache_tokens, or shorten the prompt"
        )
        self.failed.append((sequence.request, error))

    def _free(self, sequence: Sequence) -> None:
        if sequence.handle is not None:
            self.pool.free(sequence.handle)
            sequence.handle = None
        sequence.num_computed = 0


def _discard(ordered: list[Sequence], sequence: Sequence) -> None:
    position = bisect_left(ordered, sequence.key, key=_order)
    if position < len(ordered) and ordered[position] is sequence:
        del ordered[position]
