"""What a request gives back, under the names vLLM's users know."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Logprob(NamedTuple):
    """One candidate of one step, from the raw logits: before penalties, temperature, filters."""

    logprob: float  # natural logarithm
    rank: int  # 1 is the most likely
    decoded_token: str | None = None  # None without a tokenizer


@dataclass(frozen=True)
class CompletionOutput:
    """One completion of a prompt."""

    index: int  # 0 .. n - 1; for beam search, best first
    text: str  # "" without a tokenizer
    token_ids: list[int]  # with the stop token, if one ended the completion
    cumulative_logprob: float | None  # None unless ``logprobs`` were asked for
    logprobs: list[dict[int, Logprob]] | None  # one per token: the one chosen, then the best
    finish_reason: str | None  # "stop", "length", or None if the request was cut short
    stop_reason: int | str | None = None  # the stop token or string; None for the model's own


@dataclass(frozen=True)
class RequestMetrics:
    """Times of one request, in seconds of ``time.perf_counter``, of this process alone."""

    arrival_time: float
    scheduled_time: float  # the first step that ran part of it
    first_token_time: float
    finished_time: float
    arrival_timestamp: float = 0.0  # ``arrival_time`` in seconds since 1970, of ``time.time``


@dataclass(frozen=True)
class RequestOutput:
    """Everything about a finished request."""

    request_id: str
    prompt: str | None  # None if the prompt was given as token ids
    prompt_token_ids: list[int]
    outputs: list[CompletionOutput]
    metrics: RequestMetrics
    error: Exception | None = None  # why the request failed; then ``outputs`` is empty
    finished: bool = True
    prompt_logits: NDArray[np.float32] | None = None  # (T, V) of a prompt that was scored


class Delta(NamedTuple):
    """What one step added to one completion."""

    request_id: str
    completion: int  # its index
    token_id: int
    text: str  # may be "": part of a character, or perhaps the beginning of a stop string
    finish_reason: str | None  # set on the last delta of the completion
    logprobs: dict[int, Logprob] | None = None  # the token's, then the best, if asked for


class StepOutput(NamedTuple):
    """What one step of the engine produced."""

    deltas: list[Delta]
    finished: list[RequestOutput]
    times: list[float]  # seconds of perf_counter: of each token of a sequence, where known
