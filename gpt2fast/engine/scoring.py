"""Teacher-forced logits of a given text: a request like any other, of which all rows are wanted."""

from __future__ import annotations

from collections.abc import Sequence as ReadOnlyList

import numpy as np
from numpy.typing import NDArray

from gpt2fast.config import ModelConfig
from gpt2fast.engine.input_processor import check_token_ids, fresh_request_id
from gpt2fast.engine.sequence import Request, Sequence
from gpt2fast.errors import CacheExhaustedError, ContextOverflowError, counted
from gpt2fast.sampling_params import ScoringParams


def build_scoring_request(
    config: ModelConfig, token_ids: ReadOnlyList[int], capacity: int
) -> Request:
    """A request for the logits after each of ``token_ids`` (T,).

    Raises ``RequestError`` for ids outside the vocabulary, ``ContextOverflowError`` for more tokens
    than the context holds, and ``CacheExhaustedError`` for more than a cache of ``capacity`` tokens
    does.
    """
    tokens = check_token_ids(token_ids, config.vocab_size)
    if len(tokens) > config.n_positions:
        raise ContextOverflowError(
            f"{len(tokens)} tokens exceed the context of {config.n_positions}; score the text in "
            "windows of at most that many"
        )
    if len(tokens) > capacity:
        raise CacheExhaustedError(
            f"{counted(len(tokens), 'token')} need more KV cache than there is; raise "
            "kv_cache_tokens"
        )
    params = ScoringParams()
    request = Request(
        fresh_request_id(), None, tokens, params, max_tokens=0, stop_ids=frozenset(), seed=0
    )
    request.prompt_logits = np.empty((len(tokens), config.vocab_size), np.float32)
    return request


def store_logits(sequence: Sequence, logits: NDArray[np.float32]) -> bool:
    """Keep ``logits`` (N, V) of the tokens that were just run; whether they are the last."""
    kept, end = sequence.request.prompt_logits, sequence.num_computed
    assert kept is not None
    kept[end - len(logits) : end] = logits
    return end == len(kept)
