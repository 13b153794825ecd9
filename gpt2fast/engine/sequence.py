"""A request and the sequences (its completions, or its beams) that the scheduler runs for it."""

from __future__ import annotations

import time
from collections.abc import Sequence as ReadOnlyList
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gpt2fast.engine.detokenizer import IncrementalDetokenizer
from gpt2fast.engine.outputs import Logprob, RequestMetrics
from gpt2fast.engine.stop_strings import StopStrings
from gpt2fast.sampling_params import BeamSearchParams, SamplingParams, ScoringParams

if TYPE_CHECKING:
    from gpt2fast._C import LogitsProcessing
    from gpt2fast.engine.beam_search import BeamSearch


class Request:
    """One prompt with its options, and the state of its completions."""

    def __init__(
        self,
        request_id: str,
        prompt: str | None,
        prompt_token_ids: list[int],
        params: SamplingParams | BeamSearchParams | ScoringParams,
        *,
        max_tokens: int,
        stop_ids: frozenset[int],
        seed: int,
    ) -> None:
        self.request_id = request_id
        self.prompt = prompt
        self.prompt_token_ids = prompt_token_ids
        self.params = params
        self.max_tokens = max_tokens  # with the context's end taken into account
        self.stop_ids = stop_ids
        self.seed = seed
        self.is_scored = isinstance(params, ScoringParams)
        self.prompt_logits: NDArray[np.float32] | None = None  # (T, V) of one that is scored
        self.changes_logits = False  # bias, penalties or bans come before a token is chosen
        self.is_streamed = False  # somebody reads the text as it comes
        self.arrival = -1  # order of admission to the engine; first come, first served
        self.sequences: list[Sequence] = []
        self.beams: BeamSearch | None = None
        self.num_forked = 0  # beams made so far besides the first
        self.arrival_time, self.arrival_timestamp = time.perf_counter(), time.time()
        self.scheduled_time = 0.0
        self.first_token_time = 0.0

    def metrics(self) -> RequestMetrics:
        """Times so far; the request ends now."""
        return RequestMetrics(
            self.arrival_time,
            self.scheduled_time,
            self.first_token_time,
            time.perf_counter(),
            self.arrival_timestamp,
        )


class Sequence:
    """The tokens of one completion or beam, and how many of them are in the cache.

    The model sees the window ``token_ids[window_start:]``; it is the whole list unless
    ``overflow="slide"`` has dropped the oldest tokens.
    """

    __slots__ = (
        "cumulative_logprob",
        "finish_reason",
        "handle",
        "index",
        "key",
        "logprobs",
        "num_computed",
        "num_processed",
        "num_prompt",
        "parked",
        "processing",
        "request",
        "stop_reason",
        "stop_strings",
        "text_parts",
        "text_stream",
        "token_ids",
        "window_start",
    )

    def __init__(self, request: Request, index: int, token_ids: ReadOnlyList[int]) -> None:
        self.request = request
        self.index = index
        self.key = (request.arrival, index)  # scheduling order
        self.token_ids = list(token_ids)  # prompt, then output
        self.num_prompt = len(request.prompt_token_ids)
        self.window_start = 0
        self.handle: int | None = None  # of the block pool; None while nothing is cached
        self.num_computed = 0  # tokens of the window whose keys and values are cached
        self.processing: LogitsProcessing | None = None  # made when it is first needed
        self.num_processed = 0  # tokens that it has seen
        self.parked = False  # a beam that waits for its siblings
        self.text_stream: IncrementalDetokenizer | None = None
        self.stop_strings: StopStrings | None = None
        self.text_parts: list[str] = []
        self.logprobs: list[dict[int, Logprob]] = []
        self.cumulative_logprob = 0.0
        self.finish_reason: str | None = None
        self.stop_reason: int | str | None = None

    @property
    def num_pending(self) -> int:
        """Tokens that must still be run before the next one can be chosen."""
        return len(self.token_ids) - self.window_start - self.num_computed

    @property
    def num_output(self) -> int:
        """Tokens chosen so far."""
        return len(self.token_ids) - self.num_prompt

    def window(self) -> NDArray[np.int32]:
        """The tokens that the model sees."""
        return np.array(self.token_ids[self.window_start :], dtype=np.int32)
