"""Tokens straight from the runner's logits, where what is asked for is common enough to be known.

The most likely ones, or drawn behind temperature, top-k and top-p in one call of C++, which says
where torch's roundings decide; then transformers' processors and torch do it. V vocabulary.
"""

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

from gpt2fast.hf.backend.backend import Floats
from gpt2fast.hf.generation.multinomial import draw, draw_warped, is_known
from gpt2fast.hf.generation.processors import Least, Step

Tokens = NDArray[np.int64]


class Chooser(Protocol):
    """Takes logits (B, V), in which it may write, for texts of ``length``; returns tokens (B,)."""

    def __call__(self, logits: Floats, length: int) -> Tokens: ...


def chooser_of(processors: Any, steps: list[Step], at_random: bool) -> Chooser | None:
    """For ``processors``, of which ``steps`` are made; None where they are none of the known."""
    if len(steps) != len(processors):
        return None
    least = [step for step in steps if isinstance(step, Least)]
    others = [each for each, step in zip(processors, steps, strict=False) if step not in least]
    if not at_random:
        return None if others else MostLikely(least)
    if any(step in least for step in steps[len(least) :]):
        return None  # behind another, which would have kept others
    kinds = [type(each) for each in others]
    order = [TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper]
    known = TopKLogitsWarper in kinds and kinds == [kind for kind in order if kind in kinds]
    if not known or any(getattr(each, "filter_value", -np.inf) != -np.inf for each in others):
        return None
    return Drawn(least, {type(each): each for each in others}, steps)


class MostLikely:
    """The largest logit's."""

    def __init__(self, least: list[Least]) -> None:
        self._least = least

    def __call__(self, logits: Floats, length: int) -> Tokens:
        for each in self._least:
            each.bar(length, logits)
        return most_likely(logits)


class Drawn:
    """Drawn from the ``top_k`` of a text's logits, or from their nucleus."""

    def __init__(self, least: list[Least], warpers: dict[type, Any], steps: list[Step]) -> None:
        self._least, self._steps = least, steps
        top_k, top_p = warpers[TopKLogitsWarper], warpers.get(TopPLogitsWarper)
        self._temperature = getattr(warpers.get(TemperatureLogitsWarper), "temperature", 1.0)
        self._top_k = top_k.top_k
        self._top_p = 1.0 if top_p is None else top_p.top_p
        self._few = 1 if top_p is None else top_p.min_tokens_to_keep

    def __call__(self, logits: Floats, length: int) -> Tokens:
        for each in self._least:
            each.bar(length, logits)
        top_k = min(self._top_k, logits.shape[1])
        if self._few <= top_k and is_known(logits.size):
            tokens = draw_warped(logits, self._temperature, top_k, self._top_p, self._few)
            if tokens is not None:
                return tokens
        scores = torch.from_numpy(logits)
        for step in self._steps:  # which look at no ids
            scores = step(torch.empty(len(scores), length), scores)
        return cast(Tokens, draw(torch.softmax(scores, dim=-1)).numpy())


def most_likely(logits: Floats) -> Tokens:
    """(B,): the largest of (B, V)."""
    tokens: Tokens = logits.argmax(axis=1)
    return tokens
