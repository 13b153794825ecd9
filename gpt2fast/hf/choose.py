"""Tokens straight from the runner's logits, where what is asked for is common enough to be known.

The most likely ones, or drawn behind temperature, top-k and top-p: by the arithmetic of
transformers' processors and of ``torch.multinomial``, in their order, on the few tokens that are
left. V vocabulary, N tokens that are left.
"""

from __future__ import annotations

from typing import Any, Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers.generation.logits_process import (
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from gpt2fast.engine.sampler import keep_top_k
from gpt2fast.hf.draw import draw, drawn, is_known
from gpt2fast.hf.native import Floats
from gpt2fast.hf.processors import Least, Step, nucleus
from gpt2fast.hf.softmax import softmax

Tokens = NDArray[np.int64]


class Chooser(Protocol):
    """Takes logits (B, V), in which it may write, for texts of ``length``; returns tokens (B,)."""

    def __call__(self, logits: Floats, length: int) -> Tokens: ...


def chooser_of(processors: Any, steps: list[Step], at_random: bool) -> Chooser | None:
    """For ``processors``, of which ``steps`` are made; None where they are none of the known."""
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
        self._temperature = warpers.get(TemperatureLogitsWarper)
        self._top_k = warpers[TopKLogitsWarper].top_k
        self._top_p = warpers.get(TopPLogitsWarper)
        self._scores: Tensor | None = None

    def __call__(self, logits: Floats, length: int) -> Tokens:
        for each in self._least:
            each.bar(length, logits)
        left = [self._left(row) for row in torch.from_numpy(logits)]
        known = [each for each in left if each is not None]
        if not is_known(logits.size) or len(known) < len(left):
            scores = torch.from_numpy(logits)
            for step in self._steps:  # which look at no ids
                scores = step(torch.empty(len(scores), length), scores)
            return cast(Tokens, draw(torch.softmax(scores, dim=-1)).numpy())
        return drawn(known, logits.shape[1])

    def _left(self, row: Tensor) -> tuple[Tokens, Tensor] | None:
        """Tokens (N,), ascending, and their probabilities; None where ties make it a matter of the
        sort which ones."""
        if self._temperature is not None:
            if self._scores is None:  # once: fresh memory is what a division waits for
                self._scores = torch.empty_like(row)
            row = torch.div(row, self._temperature.temperature, out=self._scores)
        scores, count = row.numpy(), min(self._top_k, len(row))
        tokens = keep_top_k(scores, count)
        if len(tokens) != count:
            return None
        if self._top_p is not None:
            values = scores[tokens]
            order = values.argsort(kind="stable")
            stays = nucleus(torch.from_numpy(values[order]), self._top_p, len(row))
            if stays is None:
                return None
            tokens = np.sort(tokens[order[stays.numpy()]])
        probabilities = softmax(tokens, torch.from_numpy(scores[tokens]), len(row))
        return (tokens, probabilities) if bool(probabilities.isfinite().all()) else None


def most_likely(logits: Floats) -> Tokens:
    """(B,): the largest of (B, V)."""
    tokens: Tokens = logits.argmax(axis=1)
    return tokens
