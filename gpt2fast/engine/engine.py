"""The engine: requests in, tokens out, one ``step`` at a time."""

from __future__ import annotations

import time
from collections.abc import Sequence as ReadOnlyList
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpt2fast.engine.batch import Chunk
from gpt2fast.engine.beam_search import BeamSearch, advance_beams
from gpt2fast.engine.block_pool import BlockPool
from gpt2fast.engine.completion import append_token, record_logprobs, request_output, start_text
from gpt2fast.engine.detokenizer import Detokenizer
from gpt2fast.engine.flight import Flight, Pilot, tokens_fed
from gpt2fast.engine.intake import build_request
from gpt2fast.engine.outputs import StepOutput
from gpt2fast.engine.rows import Row, checked_token, choose_token, run_chunks
from gpt2fast.engine.sampler import Logits, check_finite
from gpt2fast.engine.scheduler import Scheduler
from gpt2fast.engine.scoring import teacher_forced_logits
from gpt2fast.engine.sequence import Request, Sequence
from gpt2fast.errors import RequestError
from gpt2fast.runners.base import Runner, SamplingRunner
from gpt2fast.sampling_params import BeamSearchParams, SamplingParams


class Engine:
    """Runs many requests at once on one runner.

    For one thread, which nobody interrupts: ``EngineLoop`` has it.

    Tokens are chosen here, or by a ``SamplingRunner`` where a request asks for nothing that it
    cannot do; one such step may give a sequence several tokens.

    ``pool`` keeps the books of the runner's cache. ``tokenizer`` (a ``tokenizers.Tokenizer``)
    turns tokens into text; without it all text is empty and stop strings are refused.
    """

    def __init__(self, runner: Runner, pool: BlockPool, tokenizer: Any = None) -> None:
        self.runner = runner
        self.pool = pool
        self._detokenizer = None if tokenizer is None else Detokenizer(tokenizer)
        self._scheduler = Scheduler(
            pool, runner.block_size, runner.max_batch_tokens, runner.max_seqs
        )
        self._pilot = Pilot(runner, pool) if isinstance(runner, SamplingRunner) else None
        self._flight: Flight | None = None  # under way
        self._requests: dict[str, Request] = {}
        self._num_arrived = 0

    def add_request(
        self,
        prompt_token_ids: ReadOnlyList[int],
        params: SamplingParams | BeamSearchParams,
        *,
        prompt: str | None = None,
        request_id: str | None = None,
    ) -> str:
        """Queue a request; returns its id. Raises what ``intake.build_request`` raises."""
        request = self.build_request(prompt_token_ids, params, prompt=prompt, request_id=request_id)
        self.enqueue(request)
        return request.request_id

    def build_request(
        self,
        prompt_token_ids: ReadOnlyList[int],
        params: SamplingParams | BeamSearchParams,
        *,
        prompt: str | None = None,
        request_id: str | None = None,
    ) -> Request:
        """A checked request, not yet queued."""
        return build_request(
            self.runner.config,
            prompt_token_ids,
            params,
            prompt=prompt,
            request_id=request_id,
            has_tokenizer=self._detokenizer is not None,
        )

    def enqueue(self, request: Request) -> None:
        """Queue a checked request. Raises ``RequestError`` if its id is in use."""
        if request.request_id in self._requests:
            raise RequestError(f"request id {request.request_id!r} is in use; give another")
        request.arrival = self._num_arrived
        self._num_arrived += 1
        self._requests[request.request_id] = request
        first = Sequence(request, 0, request.prompt_token_ids)
        request.sequences.append(first)
        self._slide_window(first)
        if isinstance(request.params, BeamSearchParams):
            request.beams = BeamSearch(request.params, request.stop_ids, request.max_tokens, first)
        start_text(first, self._detokenizer)
        self._scheduler.add(first)

    def abort(self, request_id: str) -> bool:
        """Forget a request and free its cache; False if it is not (or no longer) known."""
        request = self._requests.pop(request_id, None)
        if request is None:
            return False
        for sequence in request.sequences:
            self._scheduler.remove(sequence)
        return True

    def knows(self, request_id: str) -> bool:
        """Whether a request is queued or under way."""
        return request_id in self._requests

    def has_unfinished(self) -> bool:
        """Whether another ``step`` has something to do."""
        return bool(self._requests)

    def step(self) -> StepOutput:
        """Schedule, run, postprocess: at most one forward step over all requests.

        Never raises for a request's sake: one that cannot be run, or whose step failed in the
        runner, ends with ``RequestOutput.error``, and the others go on. After any other exception
        the engine is not to be used again: what was reserved, copied and written is not known.
        """
        result = StepOutput([], [])
        flight, self._flight = self._flight, None
        if flight is not None and flight.is_wanted:
            self._land(flight, result)
            return result
        chunks = self._scheduler.schedule()
        self._report_failures(result)
        if chunks:
            self._run_chunks(chunks, result)
        return result

    def _run_chunks(self, chunks: list[Chunk], result: StepOutput) -> None:
        for chunk in chunks:
            request = chunk.sequence.request
            request.scheduled_time = request.scheduled_time or time.perf_counter()
        try:
            copies = [pair for chunk in chunks for pair in chunk.copies]
            if copies:
                self.runner.copy_blocks(np.array(copies, dtype=np.int32))
            flight = self._pilot.take_off(chunks) if self._pilot else None
            rows = [] if flight else run_chunks(chunks, self.runner, self._pilot, self.pool)
        except Exception as error:
            self._fail_all([chunk.sequence for chunk in chunks], error, result)
            return
        if flight:
            self._land(flight, result)
        else:
            self._postprocess(chunks, rows, result)

    def _report_failures(self, result: StepOutput) -> None:
        failed, self._scheduler.failed = self._scheduler.failed, []
        for request, error in failed:
            self._fail(request, error, result)

    def _land(self, flight: Flight, result: StepOutput) -> None:
        """Take the tokens of a flight, the next one having been started if nothing else waits."""
        assert self._pilot is not None
        sequences = [member.sequence for member in flight.members]
        try:
            following = None if self._scheduler.can_admit else self._pilot.fly_on(flight)
            tokens = flight.pending.wait()
        except Exception as error:
            self._fail_all(sequences, error, result)
            return
        for member, row in zip(flight.members, tokens, strict=True):
            sequence = member.sequence
            if not member.is_current:
                continue
            self.pool.commit(member.handle, tokens_fed(member, row))
            sequence.num_computed += flight.steps
            try:
                for token in row.tolist():
                    self._append(sequence, checked_token(token), result)
                    if sequence.finish_reason is not None:
                        break
            except Exception as error:
                self._fail(sequence.request, error, result)
        self._flight = following

    def _postprocess(self, chunks: list[Chunk], rows: list[Row], result: StepOutput) -> None:
        completed: list[Sequence] = []
        for chunk in chunks:
            sequence = chunk.sequence
            first = sequence.window_start + sequence.num_computed
            fed = sequence.token_ids[first : first + chunk.num_tokens]
            self.pool.commit(chunk.handle, np.array(fed, dtype=np.int32))
            sequence.num_computed += chunk.num_tokens
            if chunk.completes:
                completed.append(sequence)
        for sequence, row in zip(completed, rows, strict=True):
            request = sequence.request
            if request.request_id not in self._requests:
                continue  # it has failed or ended with another of its rows in this very step
            try:
                if row.token is not None:
                    self._append(sequence, checked_token(row.token), result)
                elif request.beams is not None:
                    self._observe_beam(request, sequence, row.known, result)
                else:
                    for each in (sequence, *self._fork_completions(sequence)):
                        self._extend(each, row.known, result)
            except Exception as error:
                self._fail(request, error, result)

    def _fork_completions(self, first: Sequence) -> list[Sequence]:
        """The other completions of a prompt that was just run once for all of them."""
        request = first.request
        if len(request.sequences) == request.params.n:
            return []
        for index in range(1, request.params.n):
            child = Sequence(request, index, first.token_ids)
            child.window_start = first.window_start
            start_text(child, self._detokenizer)
            request.sequences.append(child)
            self._scheduler.add_fork(first, child)
        return request.sequences[1:]

    def _extend(self, sequence: Sequence, row: Logits, result: StepOutput) -> None:
        """Choose the next token from the raw logits ``row`` (V,) and append it."""
        request = sequence.request
        params = request.params
        assert isinstance(params, SamplingParams)
        token = choose_token(sequence, row)
        if params.logprobs is not None:
            record_logprobs(sequence, row, token, params.logprobs, self._detokenizer)
        self._append(sequence, token, result)

    def _append(self, sequence: Sequence, token: int, result: StepOutput) -> None:
        """Append the token that was chosen; ends the request where it was its last."""
        request = sequence.request
        if not request.first_token_time:
            request.first_token_time = time.perf_counter()
        result.deltas.append(append_token(sequence, token))
        if sequence.finish_reason is None:
            if self._slide_window(sequence):
                self._scheduler.restart(sequence)
            return
        self._scheduler.remove(sequence)
        if all(each.finish_reason for each in request.sequences):
            self._finish(request, result)

    def _slide_window(self, sequence: Sequence) -> bool:
        """Drop the oldest tokens if the window has outgrown the context; whether it had."""
        context = self.runner.config.n_positions
        if len(sequence.token_ids) - sequence.window_start <= context:
            return False
        sequence.window_start = len(sequence.token_ids) - max(context // 2, 1)
        return True

    def _observe_beam(
        self, request: Request, beam: Sequence, row: Logits, result: StepOutput
    ) -> None:
        search = request.beams
        assert search is not None
        check_finite(float(row.max()))
        search.observe(beam, row)
        beam.parked = True
        if not search.ready:
            return
        if not request.first_token_time:
            request.first_token_time = time.perf_counter()
        if not advance_beams(request, self._scheduler):
            self._finish(request, result)

    def _finish(self, request: Request, result: StepOutput) -> None:
        self.abort(request.request_id)
        result.finished.append(request_output(request, self._detokenizer))

    def _fail(self, request: Request, error: Exception, result: StepOutput) -> None:
        self.abort(request.request_id)
        result.finished.append(request_output(request, self._detokenizer, error))

    def _fail_all(self, sequences: list[Sequence], error: Exception, result: StepOutput) -> None:
        for request in dict.fromkeys(sequence.request for sequence in sequences):
            if request.request_id in self._requests:
                self._fail(request, error, result)

    def logits(self, token_ids: ReadOnlyList[int]) -> NDArray[np.float32]:
        """Teacher-forced logits (T, V): row t predicts token t + 1. See ``scoring``."""
        return teacher_forced_logits(self.runner, self.pool, self._scheduler, token_ids)

    def stats(self) -> dict[str, int]:
        """The pool's statistics, and the number of running, waiting and preempted sequences."""
        return {
            **self.pool.stats(),
            "running": len(self._scheduler.running),
            "waiting": len(self._scheduler.waiting),
            "preemptions": self._scheduler.num_preemptions,
        }
