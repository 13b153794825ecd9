"""Perplexity and last words with their intervals, ready for JSON."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpt2fast.evaluate.bootstrap import RESAMPLES, Comparison, finite, interval, paired_comparison
from gpt2fast.evaluate.last_word import LastWords
from gpt2fast.evaluate.text import Text


def perplexity(
    nats: NDArray[np.float64], text: Text, *, seed: int = 0, resamples: int = RESAMPLES
) -> dict[str, Any]:
    """The protocol, and each measure of ``text.quality`` with the bounds of its 95 % interval.

    ``nats`` (N,) are those of ``token_nats(scorer, text.windows)``. A bound is None where the text
    has too few windows for an interval.
    """
    mean = interval(nats, text.groups, weights=text.weights, seed=seed, resamples=resamples)
    report: dict[str, Any] = {"nats_per_token": mean.mean, **text.quality(mean.mean)}
    known = finite(mean.low) is not None
    bounds = [text.quality(mean.low), text.quality(mean.high)] if known else []
    report["interval"] = {
        name: [bound[name] for bound in bounds] or None for name in text.quality(mean.mean)
    }
    return {**text.facts, **report, "groups": mean.groups}


def compare_perplexity(
    nats_a: NDArray[np.float64],
    nats_b: NDArray[np.float64],
    text: Text,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Comparison:
    """What model b loses against a on ``text``, in the weights of its protocol."""
    return paired_comparison(
        nats_a, nats_b, text.groups, seed, weights=text.weights, resamples=resamples
    )


def summarize_last_words(
    words: LastWords, *, seed: int = 0, resamples: int = RESAMPLES
) -> dict[str, Any]:
    """Accuracy, and perplexity of the last word, with intervals over passages."""
    accuracy = interval(words.correct, seed=seed, resamples=resamples)
    cost = interval(words.nats, seed=seed, resamples=resamples)
    return {
        "accuracy": accuracy.as_dict(),
        "perplexity": {
            name: None if value is None else math.exp(min(value, 700.0))
            for name, value in cost.as_dict().items()
            if name != "groups"
        },
    }


def compare_last_words(
    before: LastWords, after: LastWords, *, seed: int = 0, resamples: int = RESAMPLES
) -> dict[str, Any]:
    """What model ``after`` does better or worse than ``before`` on the same passages."""
    hits = after.correct.astype(np.float64) - before.correct
    cost = paired_comparison(before.nats, after.nats, seed=seed, resamples=resamples)
    return {
        "accuracy_difference": interval(hits, seed=seed, resamples=resamples).as_dict(),
        "perplexity": cost.as_dict(),
    }
