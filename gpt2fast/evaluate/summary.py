"""Perplexity of a text with its interval and protocol, ready for JSON."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpt2fast.evaluate.bootstrap import RESAMPLES, Comparison, finite, interval, paired_comparison
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


def compare(
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
