"""Confidence intervals of means by the bootstrap over groups of tokens.

Tokens of one window or document depend on each other, so groups of them are resampled, not tokens
(a cluster bootstrap: Davison and Hinkley, "Bootstrap Methods and their Application", 1997, 3.8).
The percentiles are widened for a small number of groups (the expanded percentile interval of
Hesterberg, "What Teachers Should Know About the Bootstrap", 2015), which else are too narrow by the
factor of Student's t and of the biased variance.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from gpt2fast.errors import OptionError

LEVEL = 0.95
RESAMPLES = 10_000
LEAST_GROUPS = 5  # below, an interval would mean nothing
_BLOCK = 1 << 20  # random numbers at a time


class BootstrapOptions(TypedDict):
    """The randomness of an interval, as keywords of the functions below."""

    seed: int
    resamples: int


@dataclass(frozen=True)
class Interval:
    """A mean with its confidence interval of ``LEVEL``, from ``groups`` groups.

    With fewer than ``LEAST_GROUPS`` of them it is all numbers, from minus to plus infinity.
    """

    mean: float
    low: float
    high: float
    groups: int

    def as_dict(self) -> dict[str, Any]:
        """For JSON; an unknown bound is None."""
        return {
            "mean": finite(self.mean),
            "low": finite(self.low),
            "high": finite(self.high),
            "groups": self.groups,
        }


@dataclass(frozen=True)
class Comparison(Interval):
    """Mean nats a token of model b less those of model a on the same tokens, with its interval.

    ``percent`` and its bounds are the same in perplexity: how many percent b's is above a's.
    """

    @property
    def percent(self) -> float:
        """100 (exp(mean) - 1)."""
        return _percent(self.mean)

    @property
    def percent_low(self) -> float:
        """The lower bound of ``percent``: -100 where nothing is known."""
        return _percent(self.low)

    @property
    def percent_high(self) -> float:
        """The upper bound of ``percent``: infinity where nothing is known."""
        return _percent(self.high)

    def as_dict(self) -> dict[str, Any]:
        """For JSON; an unknown bound is None."""
        known = math.isfinite(self.low)
        return {
            "nats_difference": self.mean,
            "low": finite(self.low),
            "high": finite(self.high),
            "percent": finite(self.percent),
            "percent_low": self.percent_low if known else None,
            "percent_high": finite(self.percent_high),
            "groups": self.groups,
        }


def interval(
    values: NDArray[Any],
    groups: NDArray[np.integer] | None = None,
    *,
    weights: NDArray[np.float64] | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Interval:
    """The weighted mean of ``values`` (N,) with its interval, resampling ``groups`` (N,).

    Without ``groups`` each value is one of its own. Raises ``OptionError`` for no values.
    """
    if len(values) == 0:
        raise OptionError("there is nothing to take a mean of")
    sums, counts = _totals(values, groups, weights)
    mean = float(sums.sum() / counts.sum())
    if len(sums) < LEAST_GROUPS or not math.isfinite(mean):
        return Interval(mean, -math.inf, math.inf, len(sums))
    means = resampled_means(sums, counts, seed, resamples)
    tail = _tail(len(sums))
    low, high = np.quantile(means, [tail, 1 - tail])
    return Interval(mean, float(low), float(high), len(sums))


def paired_comparison(
    nats_a: NDArray[np.float64],
    nats_b: NDArray[np.float64],
    groups: NDArray[np.integer] | None = None,
    seed: int = 0,
    *,
    weights: NDArray[np.float64] | None = None,
    resamples: int = RESAMPLES,
) -> Comparison:
    """What b loses against a on the same tokens: ``nats_b - nats_a`` (N,), resampled by group.

    Both models see the same resampled groups, so what makes a text hard for both cancels.
    """
    if nats_a.shape != nats_b.shape:
        raise OptionError(
            f"nats of {nats_a.shape} and {nats_b.shape} tokens cannot be paired; score the same "
            "windows with both models"
        )
    found = interval(nats_b - nats_a, groups, weights=weights, seed=seed, resamples=resamples)
    return Comparison(found.mean, found.low, found.high, found.groups)


def resampled_means(
    sums: NDArray[np.float64], counts: NDArray[np.float64], seed: int, resamples: int
) -> NDArray[np.float64]:
    """Means (resamples,) of groups drawn with replacement: sum of ``sums`` over that of ``counts``,
    (G,) each."""
    rng = np.random.default_rng(seed)
    size = len(sums)
    rows = max(1, _BLOCK // size)
    means = np.empty(resamples)
    for start in range(0, resamples, rows):
        drawn = rng.integers(size, size=(min(rows, resamples - start), size))
        means[start : start + rows] = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    return means


def finite(value: float) -> float | None:
    """``value`` for JSON, which has no infinities."""
    return value if math.isfinite(value) else None


def _totals(
    values: NDArray[Any],
    groups: NDArray[np.integer] | None,
    weights: NDArray[np.float64] | None,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Weighted sum and sum of weights of each group."""
    heavy = np.ones(len(values)) if weights is None else weights
    if groups is None:
        return values * heavy, heavy
    _, index = np.unique(groups, return_inverse=True)
    sums, counts = np.bincount(index, values * heavy), np.bincount(index, heavy)
    weighed = counts > 0  # a resample of groups without weight would have no mean
    return sums[weighed].astype(np.float64), counts[weighed].astype(np.float64)


def _tail(groups: int) -> float:
    """The probability to leave out on each side of the resampled means."""
    normal = NormalDist()
    wide = math.sqrt(groups / (groups - 1)) * _student(0.5 + LEVEL / 2, groups - 1)
    return normal.cdf(-wide)


def _student(probability: float, freedom: int) -> float:
    """Quantile of Student's t by its expansion in 1 / ``freedom`` (Abramowitz and Stegun, 26.7.5);
    within 0.5 % from 4 degrees on."""
    z = NormalDist().inv_cdf(probability)
    terms: tuple[float, ...] = (
        z,
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return math.fsum(term / freedom**power for power, term in enumerate(terms))


def _percent(nats: float) -> float:
    return 100 * math.expm1(min(nats, 700.0)) if nats < math.inf else math.inf
