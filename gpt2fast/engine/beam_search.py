"""Beam search over one request: which continuations live, which hypotheses are finished, when to
stop. ``BeamSearch`` knows token scores only; ``advance_beams`` forks and frees the sequences."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gpt2fast.engine.logprobs import keep_top_k, log_sum_exp
from gpt2fast.engine.scheduler import Scheduler
from gpt2fast.engine.sequence import Request, Sequence
from gpt2fast.sampling_params import BeamSearchParams


class Continuation(NamedTuple):
    """One more token for one beam."""

    parent: Sequence
    token: int
    score: np.float32  # sum of log p of the whole output, this token included


class Hypothesis(NamedTuple):
    """A finished output."""

    token_ids: list[int]  # output only, with the stop token if one ended it
    sum_logprob: float
    score: float  # sum_logprob / len(token_ids)**length_penalty
    stop_token: int | None  # None: it ended at max_tokens


class BeamSearch:
    """The state of one search, with the arithmetic and the order of transformers' ``num_beams``.

    Each step takes the best ``max(2, 1 + number of stop tokens) * beam_width`` continuations of
    all beams, so that at least ``beam_width`` of them go on; of these, the best ``beam_width`` that
    end become hypotheses, and the best ``beam_width`` that do not end are the next beams.
    """

    def __init__(
        self, params: BeamSearchParams, stop_ids: frozenset[int], max_tokens: int, root: Sequence
    ) -> None:
        self._params = params
        self._stop_ids = stop_ids
        self._max_tokens = max_tokens
        self._keep = max(2, 1 + len(stop_ids)) * params.beam_width
        self._num_output = 0
        self._observed: dict[int, tuple[NDArray[np.int64], NDArray[np.float32]]] = {}
        self.beams: list[tuple[Sequence, np.float32]] = [(root, np.float32(0.0))]
        self.hypotheses: list[Hypothesis] = []  # best first
        self.done = False

    def observe(self, beam: Sequence, logits: NDArray[np.float32]) -> None:
        """Remember the best continuations of ``beam`` from its ``logits`` (V,)."""
        tokens = keep_top_k(logits, min(self._keep, len(logits)))
        log_probs = (logits[tokens] - log_sum_exp(logits)).astype(np.float32)
        self._observed[beam.index] = (tokens, log_probs)

    @property
    def ready(self) -> bool:
        """Whether every beam has been observed since the last ``advance``."""
        return len(self._observed) == len(self.beams)

    def advance(self) -> list[Continuation]:
        """Choose the next beams, best first; [] once the search is ``done``."""
        width = self._params.beam_width
        best = self._best_continuations()
        self._observed.clear()
        self._num_output += 1
        at_end = self._num_output == self._max_tokens
        ends = [at_end or candidate.token in self._stop_ids for candidate in best]
        for candidate, end in zip(best[:width], ends[:width], strict=True):
            if end:
                self._add_hypothesis(candidate)
        live = [candidate for candidate, end in zip(best, ends, strict=True) if not end][:width]
        self.done = not live or not self._can_improve(float(live[0].score))
        return [] if self.done else live

    def _best_continuations(self) -> list[Continuation]:
        """The best of all beams, best first; equal ones by rank of the beam, then by token."""
        observed = [self._observed[beam.index] for beam, _ in self.beams]
        tokens = np.concatenate([ids for ids, _ in observed])
        ranks = np.repeat(np.arange(len(observed)), [len(ids) for ids, _ in observed])
        scored = zip(self.beams, observed, strict=True)
        totals = np.concatenate([log_probs + score for (_, score), (_, log_probs) in scored])
        best = keep_top_k(totals, min(self._keep, len(totals)))
        # Both are in order of rank and token already, and a stable sort keeps that among equals.
        best = best[np.argsort(-totals[best], kind="stable")][: self._keep]
        return [
            Continuation(self.beams[rank][0], token, total)
            for rank, token, total in zip(
                ranks[best].tolist(), tokens[best].tolist(), totals[best], strict=True
            )
        ]

    def _add_hypothesis(self, last: Continuation) -> None:
        output = [*last.parent.token_ids[last.parent.num_prompt :], last.token]
        total = float(last.score)
        score = total / math.pow(len(output), self._params.length_penalty)
        stop = last.token if last.token in self._stop_ids else None
        self.hypotheses.append(Hypothesis(output, total, score, stop))
        self.hypotheses.sort(key=lambda each: -each.score)
        del self.hypotheses[self._params.beam_width :]

    def _can_improve(self, best_running: float) -> bool:
        if len(self.hypotheses) < self._params.beam_width:
            return True
        if self._params.early_stopping is True:
            return False
        penalty = self._params.length_penalty
        longest = self._params.early_stopping == "never" and penalty > 0.0
        length = self._max_tokens if longest else self._num_output
        return best_running / math.pow(length, penalty) > self.hypotheses[-1].score


def advance_beams(request: Request, scheduler: Scheduler) -> bool:
    """Choose the next beams of a request and make their sequences; False once it is finished.

    The first continuation of a beam goes on in its sequence, others in forks that share its cache
    blocks until they write to them; a beam without any gives its blocks back.
    """
    search = request.beams
    assert search is not None
    continuations = search.advance()
    if search.done:
        return False
    kept = {each.parent.index for each in continuations}
    for sequence in request.sequences:
        if sequence.index not in kept:
            scheduler.remove(sequence)
    beams: list[tuple[Sequence, np.float32]] = []
    for parent, token, score in continuations:
        if parent.parked:  # its first continuation
            beam = parent
            beam.token_ids.append(token)
            scheduler.unpark(beam)
        else:
            request.num_forked += 1
            beam = Sequence(request, request.num_forked, [*parent.token_ids[:-1], token])
            scheduler.add_fork(parent, beam)
        beams.append((beam, score))
    search.beams = beams
    request.sequences = [beam for beam, _ in beams]
    return True
