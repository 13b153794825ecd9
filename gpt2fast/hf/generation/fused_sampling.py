"""Token selection straight from the runner's logits, for the most common processors.

Argmax in numpy; or temperature, top-k, top-p and sampling fused into one C++ call. That call
reports when the outcome depends on torch's rounding; then transformers' processors and torch
decide. B sequences, V vocabulary."""

from __future__ import annotations

from typing import Any, Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray
from transformers.generation.logits_process import (
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from gpt2fast.hf.backend.backend import FloatArray
from gpt2fast.hf.generation.multinomial import matches_torch, multinomial, sample_warped
from gpt2fast.hf.generation.processors import MinLengthProcessor, ProcessorFn

Tokens = NDArray[np.int64]


class TokenSampler(Protocol):
    """Selects tokens (B,) from logits (B, V), which it may overwrite, for sequences of
    ``length``."""

    def __call__(self, logits: FloatArray, length: int) -> Tokens: ...


def fused_sampler(
    processors: Any, functions: list[ProcessorFn], do_sample: bool
) -> TokenSampler | None:
    """The sampler for ``processors``, whose ``fast_processors`` are ``functions``; None if they are
    not a combination that is supported here."""
    if len(functions) != len(processors):
        return None
    min_length = [each for each in functions if isinstance(each, MinLengthProcessor)]
    others = [p for p, f in zip(processors, functions, strict=False) if f not in min_length]
    if not do_sample:
        return None if others else GreedySampler(min_length)
    if any(each in min_length for each in functions[len(min_length) :]):
        return None  # after a warper, whose choice EOS tokens would have changed
    kinds = [type(each) for each in others]
    order = [TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper]
    supported = TopKLogitsWarper in kinds and kinds == [kind for kind in order if kind in kinds]
    if not supported or any(getattr(p, "filter_value", -np.inf) != -np.inf for p in others):
        return None
    return WarpedSampler(min_length, {type(each): each for each in others}, functions)


class GreedySampler:
    """The token with the largest logit."""

    def __init__(self, min_length: list[MinLengthProcessor]) -> None:
        self._min_length = min_length

    def __call__(self, logits: FloatArray, length: int) -> Tokens:
        for each in self._min_length:
            each.mask_eos(length, logits)
        return argmax_tokens(logits)


class WarpedSampler:
    """A token sampled after temperature, top-k and top-p."""

    def __init__(
        self,
        min_length: list[MinLengthProcessor],
        warpers: dict[type, Any],
        functions: list[ProcessorFn],
    ) -> None:
        self._min_length, self._functions = min_length, functions
        top_k, top_p = warpers[TopKLogitsWarper], warpers.get(TopPLogitsWarper)
        self._temperature = getattr(warpers.get(TemperatureLogitsWarper), "temperature", 1.0)
        self._top_k = top_k.top_k
        self._top_p = 1.0 if top_p is None else top_p.top_p
        self._min_tokens = 1 if top_p is None else top_p.min_tokens_to_keep

    def __call__(self, logits: FloatArray, length: int) -> Tokens:
        for each in self._min_length:
            each.mask_eos(length, logits)
        top_k = min(self._top_k, logits.shape[1])
        if self._min_tokens <= top_k and matches_torch(logits.size):
            tokens = sample_warped(logits, self._temperature, top_k, self._top_p, self._min_tokens)
            if tokens is not None:
                return tokens
        scores = torch.from_numpy(logits)
        for process in self._functions:  # none of these reads the ids
            scores = process(torch.empty(len(scores), length), scores)
        return cast(Tokens, multinomial(torch.softmax(scores, dim=-1)).numpy())


def argmax_tokens(logits: FloatArray) -> Tokens:
    """(B,): the index of the largest logit of each row (B, V)."""
    tokens: Tokens = logits.argmax(axis=1)
    return tokens
