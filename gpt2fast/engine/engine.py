"""The engine: requests in, tokens out, one ``step`` at a time."""

from __future__ import annotations

import time
from collections.abc import Sequence as ReadOnlyList
from typing import Any

import numpy as np

from gpt2fast.engine.batch import Chunk
from gpt2fast.engine.beam_search import BeamSearch, advance_beams
from gpt2fast.engine.block_pool import BlockPool
from gpt2fast.engine.detokenizer import Detokenizer
from gpt2fast.engine.input_processor import build_request
from gpt2fast.engine.logprobs import Logits, check_finite
from gpt2fast.engine.multi_step import InFlightStep, MultiStepScheduler
from gpt2fast.engine.output_processor import (
    append_tokens,
    record_logprobs,
    request_output,
    start_text,
)
from gpt2fast.engine.outputs import StepOutput
from gpt2fast.engine.sample_step import check_token, is_sampled_by_runner, sampling_by_host
from gpt2fast.engine.scheduler import Scheduler
from gpt2fast.engine.scoring import store_logits
from gpt2fast.engine.sequence import Request, Sequence
from gpt2fast.errors import RequestError
from gpt2fast.runners.base import Runner
from gpt2fast.runners.host_sampling import choose_tokens, with_sampling
from gpt2fast.sampling_params import BeamSearchParams, SamplingParams


class Engine:
    """Runs many requests at once on one runner.

    For one thread, which nobody interrupts: ``EngineLoop`` has it.

    A ``SamplingRunner`` chooses the tokens, and one step may give a sequence several; for any other
    runner ``HostSampling`` does it.

    ``pool`` has the block tables of the runner's cache. ``tokenizer`` (a ``tokenizers.Tokenizer``)
    turns tokens into text; without it all text is empty and stop strings are refused.
    """

    def __init__(self, runner: Runner, pool: BlockPool, tokenizer: Any = None) -> None:
        self.runner = with_sampling(runner)
        self.pool = pool
        self._detokenizer = None if tokenizer is None else Detokenizer(tokenizer)
        self._scheduler = Scheduler(
            pool, runner.block_size, runner.max_batch_tokens, runner.max_seqs
        )
        self._multi_step = MultiStepScheduler(self.runner, pool)
        self._in_flight: InFlightStep | None = None
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
        output = StepOutput([], [], [])
        step, self._in_flight = self._in_flight, None
        if step is None or not step.is_wanted:
            chunks = self._scheduler.schedule()
            self._report_failures(output)
            step = self._launch(chunks, output) if chunks else None
        if step is not None:
            self._process(step, output)
        return output

    def stop_early(self) -> None:
        """End a call of several steps after the one under way; for any thread."""
        self.runner.stop_flag.set()

    def _launch(self, chunks: list[Chunk], output: StepOutput) -> InFlightStep | None:
        for chunk in chunks:
            request = chunk.sequence.request
            request.scheduled_time = request.scheduled_time or time.perf_counter()
        try:
            copies = [pair for chunk in chunks for pair in chunk.copies]
            if copies:
                self.runner.copy_blocks(np.array(copies, dtype=np.int32))
            return self._multi_step.launch(chunks)
        except Exception as error:
            self._fail_all([chunk.sequence for chunk in chunks], error, output)
            return None

    def _report_failures(self, output: StepOutput) -> None:
        failed, self._scheduler.failed = self._scheduler.failed, []
        for request, error in failed:
            self._fail(request, error, output)

    def _process(self, step: InFlightStep, output: StepOutput) -> None:
        """Take what a call of the runner has computed, the next one having been made if the runner
        runs ahead and nothing else waits."""
        try:
            following = None if self._scheduler.can_admit else self._multi_step.launch_next(step)
            columns = step.pending.wait()
        except Exception as error:
            self._fail_all([each.sequence for each in step.sequences], error, output)
            return
        self._multi_step.observe(step, columns.shape[1])
        if step.pending.times is not None:
            output.times.extend(step.pending.times.tolist())
        chosen, first = columns.tolist(), 0
        results: list[tuple[Sequence, list[int], Logits | None]] = []
        for each in step.sequences:
            rows = slice(first, first + each.num_logits)
            first = rows.stop
            tokens = chosen[rows.start] if each.num_logits == 1 else []
            if not each.is_current:
                continue
            run = each.tokens_run(tokens)
            self.pool.commit(each.handle, run)
            each.sequence.num_computed += len(run)
            if columns.shape[1] < step.steps:  # the runner stopped early
                self.pool.truncate(each.handle, each.sequence.num_computed)
            if each.num_logits:
                logits = None if step.logits is None else step.logits[rows]
                results.append((each.sequence, tokens, logits))
        for sequence, tokens, logits in results:
            if sequence.request.request_id not in self._requests:
                continue  # it has failed or ended with another of its sequences in this very step
            try:
                self._process_sequence(sequence, tokens, logits, output)
            except Exception as error:
                self._fail(sequence.request, error, output)
        self._in_flight = following

    def _process_sequence(
        self, sequence: Sequence, tokens: list[int], logits: Logits | None, output: StepOutput
    ) -> None:
        """Append the ``tokens`` of a sequence, or do with its ``logits`` (N, V) what it is for."""
        request = sequence.request
        if is_sampled_by_runner(sequence, self.runner.processes_logits):
            self._append(sequence, tokens, None if logits is None else logits[0], output)
            return
        assert logits is not None
        if request.is_scored:
            if store_logits(sequence, logits):
                self._finish(request, output)
        elif request.beams is not None:
            self._observe_beam(request, sequence, logits[0], output)
        else:
            sequences = [sequence, *self._fork_completions(sequence)]
            rows = np.broadcast_to(logits, (len(sequences), logits.shape[1]))
            chosen = choose_tokens(rows, sampling_by_host(sequences)).tolist()
            for each, token in zip(sequences, chosen, strict=True):
                self._append(each, [token], logits[0], output)

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

    def _append(
        self, sequence: Sequence, tokens: list[int], logits: Logits | None, output: StepOutput
    ) -> None:
        """Append ``tokens``, of which there is one if anybody wants to know its ``logits`` (V,);
        ends the request where they were its last."""
        request = sequence.request
        params = request.params
        assert isinstance(params, SamplingParams)
        if params.logprobs is not None:
            assert logits is not None
            (token,) = tokens
            count = params.logprobs
            record_logprobs(sequence, logits, check_token(token), count, self._detokenizer)
        if not request.first_token_time:
            request.first_token_time = time.perf_counter()
        append_tokens(sequence, tokens, output.deltas)
        if sequence.finish_reason is None:
            if self._slide_window(sequence):
                self._scheduler.restart(sequence)
            return
        self._scheduler.remove(sequence)
        if all(each.finish_reason for each in request.sequences):
            self._finish(request, output)

    def _slide_window(self, sequence: Sequence) -> bool:
        """Drop the oldest tokens if the window has outgrown the context; whether it had."""
        context = self.runner.config.n_positions
        if len(sequence.token_ids) - sequence.window_start <= context:
            return False
        sequence.window_start = len(sequence.token_ids) - max(context // 2, 1)
        return True

    def _observe_beam(
        self, request: Request, beam: Sequence, row: Logits, output: StepOutput
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
            self._finish(request, output)

    def _finish(self, request: Request, output: StepOutput) -> None:
        self.abort(request.request_id)
        output.finished.append(request_output(request, self._detokenizer))

    def _fail(self, request: Request, error: Exception, output: StepOutput) -> None:
        self.abort(request.request_id)
        output.finished.append(request_output(request, self._detokenizer, error))

    def _fail_all(self, sequences: list[Sequence], error: Exception, output: StepOutput) -> None:
        for request in dict.fromkeys(sequence.request for sequence in sequences):
            if request.request_id in self._requests:
                self._fail(request, error, output)

    def stats(self) -> dict[str, int]:
        """The pool's statistics, and the number of running, waiting and preempted sequences."""
        return {
            **self.pool.stats(),
            "running": len(self._scheduler.running),
            "waiting": len(self._scheduler.waiting),
            "preemptions": self._scheduler.num_preemptions,
        }
