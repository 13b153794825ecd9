"""Checking a prompt and its options against the model before they enter the engine."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Set
from collections.abc import Sequence as ReadOnlyList
from numbers import Integral
from typing import Any

import numpy as np

from gpt2fast.config import ModelConfig
from gpt2fast.engine.rng import fresh_seed
from gpt2fast.engine.sample_step import changes_logits
from gpt2fast.engine.sequence import Request
from gpt2fast.errors import (
    CacheExhaustedError,
    ContextOverflowError,
    OptionError,
    RequestError,
    counted,
    show,
)
from gpt2fast.sampling_params import BeamSearchParams, SamplingParams

# What can be iterated over, but has no order, or holds integers that are no token ids.
NOT_LISTS = (bytes, bytearray, memoryview, Set, Mapping)


def build_request(
    config: ModelConfig,
    prompt_token_ids: ReadOnlyList[int],
    params: SamplingParams | BeamSearchParams,
    *,
    prompt: str | None = None,
    request_id: str | None = None,
    has_tokenizer: bool = True,
) -> Request:
    """A request that this model can run.

    Raises ``RequestError`` for a prompt that is empty or has ids outside the vocabulary,
    ``ContextOverflowError`` for one that does not fit with its ``max_tokens``, and ``OptionError``
    for options that this model's vocabulary cannot meet.
    """
    tokens = check_token_ids(prompt_token_ids, config.vocab_size)
    stop_ids = frozenset(params.stop_token_ids) | frozenset(
        () if params.ignore_eos else config.eos_token_ids
    )
    seed = 0
    if isinstance(params, SamplingParams):
        _check_sampling_options(params, config.vocab_size, has_tokenizer)
        seed = fresh_seed() if params.seed is None else params.seed
    _check_option_ids("stop_token_ids", params.stop_token_ids, config.vocab_size)
    stop_ids = frozenset(token for token in stop_ids if token < config.vocab_size)
    if isinstance(params, SamplingParams) and params.min_tokens:
        _check_some_token_is_left(stop_ids, config.vocab_size)
    request = Request(
        fresh_request_id() if request_id is None else request_id,
        prompt,
        tokens,
        params,
        max_tokens=_resolve_max_tokens(len(tokens), params, config.n_positions),
        stop_ids=stop_ids,
        seed=seed,
    )
    if isinstance(params, SamplingParams):
        request.changes_logits = changes_logits(params)
    return request


def fresh_request_id() -> str:
    """Unique, in other processes and on other machines too."""
    return f"request-{secrets.token_hex(8)}"


def as_plain_list(value: Any) -> Any:
    """Arrays and tensors of any library as (nested) lists of Python numbers; all else as it is."""
    if isinstance(value, (str, *NOT_LISTS)) or not hasattr(value, "shape"):
        return value
    if not hasattr(value, "tolist"):  # TensorFlow's tensors have none
        value = np.asarray(value)
    return value.tolist()


def check_token_ids(tokens: ReadOnlyList[int], vocab_size: int) -> list[int]:
    """``tokens`` as a list of plain ints in [0, V); ``RequestError`` names the first bad one."""
    tokens = as_plain_list(tokens)
    if isinstance(tokens, (str, *NOT_LISTS)) or not hasattr(tokens, "__iter__"):
        raise RequestError(f"token ids are {type(tokens).__name__}; give a list of integers")
    # A tensor of no dimension is a number, too.
    checked: list[Any] = [token if type(token) is int else as_plain_list(token) for token in tokens]
    if not checked:
        raise RequestError("the prompt is empty; give at least one token (such as the bos token)")
    for position, token in enumerate(checked):
        if isinstance(token, (str, list)):
            raise RequestError(
                f"token {position} of the prompt is {show(token)}, as if it were a list of "
                "prompts; give one prompt here: a string or a list of integers"
            )
        if not isinstance(token, Integral) or isinstance(token, bool):
            raise RequestError(
                f"token {position} of the prompt is {show(token)}; give integers in "
                f"[0, {vocab_size})"
            )
        if not 0 <= int(token) < vocab_size:
            raise RequestError(
                f"token {position} of the prompt is {token}, outside the vocabulary "
                f"[0, {vocab_size}); was it made by another model's tokenizer?"
            )
    return [int(token) for token in checked]


def check_cache(request: Request, n_positions: int, capacity: int) -> None:
    """Raises ``CacheExhaustedError`` for a request that a cache of ``capacity`` tokens cannot hold
    even alone."""
    num_prompt = len(request.prompt_token_ids)
    needed = min(num_prompt + request.max_tokens - 1, n_positions)  # the last token is not run
    if needed <= capacity:
        return
    room = capacity - num_prompt + 1
    remedy = f"lower max_tokens to at most {room}" if room > 0 else "shorten the prompt"
    raise CacheExhaustedError(
        f"the prompt's {counted(num_prompt, 'token')} and up to {request.max_tokens} more need "
        f"{counted(needed, 'token')} of KV cache, but the whole cache holds {capacity}; raise "
        f"kv_cache_tokens, or {remedy}"
    )


def _check_some_token_is_left(stop_ids: frozenset[int], vocab_size: int) -> None:
    if len(stop_ids) == vocab_size:
        raise OptionError(
            f"min_tokens bans the stop tokens, which are all {vocab_size} tokens of the "
            "vocabulary; give min_tokens = 0 or fewer stop_token_ids"
        )


def _check_sampling_options(params: SamplingParams, vocab_size: int, has_tokenizer: bool) -> None:
    if params.logit_bias:
        _check_option_ids("logit_bias", params.logit_bias, vocab_size)
    if params.logprobs is not None and params.logprobs > vocab_size:
        raise OptionError(
            f"logprobs = {params.logprobs} exceeds the vocabulary of {vocab_size}; lower it"
        )
    if params.stop and not has_tokenizer:
        raise OptionError(
            "stop strings need a tokenizer, and this checkpoint has none; use stop_token_ids"
        )


def _check_option_ids(option: str, tokens: object, vocab_size: int) -> None:
    for token in tokens:  # type: ignore[attr-defined]
        if token >= vocab_size:
            raise OptionError(
                f"{option} holds token {token}, outside the vocabulary [0, {vocab_size})"
            )


def _resolve_max_tokens(
    num_prompt: int, params: SamplingParams | BeamSearchParams, n_positions: int
) -> int:
    overflow = params.overflow if isinstance(params, SamplingParams) else "error"
    room = n_positions - num_prompt
    if overflow == "slide":
        assert params.max_tokens is not None
        return params.max_tokens
    if room < 1:
        slide = "" if isinstance(params, BeamSearchParams) else ", or set overflow='slide'"
        raise ContextOverflowError(
            f"the prompt has {counted(num_prompt, 'token')} and leaves no room for output in the "
            f"context of {n_positions}; shorten it by at least {1 - room}{slide}"
        )
    if params.max_tokens is None or (overflow == "stop" and params.max_tokens > room):
        return room
    if params.max_tokens > room:
        remedies = (
            ""
            if isinstance(params, BeamSearchParams)
            else (
                "; or set overflow='stop' (end there) or overflow='slide' (drop the oldest tokens)"
            )
        )
        raise ContextOverflowError(
            f"the prompt's {counted(num_prompt, 'token')} and max_tokens = {params.max_tokens} "
            f"exceed the context of {n_positions} by {params.max_tokens - room}; shorten the "
            f"prompt or lower max_tokens to at most {room}{remedies}"
        )
    return params.max_tokens
