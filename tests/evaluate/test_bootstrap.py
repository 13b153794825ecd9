"""Intervals: against a bootstrap in plain loops, and by how often they hold the truth."""

from __future__ import annotations

import json
import math
import random

import numpy as np
import pytest

from gpt2fast.errors import OptionError
from gpt2fast.evaluate import interval, paired_comparison
from gpt2fast.evaluate.bootstrap import _student, _tail


def test_against_a_bootstrap_in_plain_loops() -> None:
    rng = np.random.default_rng(0)
    sizes = rng.integers(3, 40, 30)
    groups = np.repeat(rng.permutation(30) + 100, sizes)
    values = rng.standard_exponential(len(groups)) + groups % 5
    weights = rng.uniform(0.5, 1.0, len(groups))
    found = interval(values, groups, weights=weights, seed=3)
    names = sorted(set(groups.tolist()))
    of = {
        name: [(w * v, w) for v, w, g in zip(values, weights, groups, strict=True) if g == name]
        for name in names
    }
    totals = {name: (sum(a for a, _ in of[name]), sum(b for _, b in of[name])) for name in names}
    draw = random.Random(1)
    means = []
    for _ in range(4000):
        chosen = [totals[draw.choice(names)] for _ in names]
        means.append(sum(a for a, _ in chosen) / sum(b for _, b in chosen))
    means.sort()
    tail = _tail(30)
    width = found.high - found.low
    assert found.mean == pytest.approx(np.average(values, weights=weights))
    assert found.groups == 30
    assert found.low == pytest.approx(means[int(tail * 4000)], abs=0.05 * width)
    assert found.high == pytest.approx(means[int((1 - tail) * 4000)], abs=0.05 * width)


@pytest.mark.parametrize(("groups", "spread"), [(6, 1.0), (20, 1.0), (20, 0.0)])
def test_it_holds_the_truth_as_often_as_it_says(groups: int, spread: float) -> None:
    """Tokens of a group share a deviation, so that an interval over tokens would be too narrow."""
    rng = np.random.default_rng(7)
    index = np.repeat(np.arange(groups), 25)
    tries, held, naive = 400, 0, 0
    for seed in range(tries):
        values = rng.normal(0, spread, groups)[index] + rng.normal(0, 1, len(index))
        found = interval(values, index, seed=seed, resamples=1000)
        held += found.low <= 0.0 <= found.high
        alone = interval(values, seed=seed, resamples=200)
        naive += alone.low <= 0.0 <= alone.high
    # 95 % less three standard errors of 400 tries.
    assert 0.917 <= held / tries <= 0.983
    assert naive / tries < 0.6 or spread == 0.0, "the control must fail"


def test_pairing_removes_what_is_hard_for_both() -> None:
    rng = np.random.default_rng(2)
    groups = np.repeat(np.arange(40), 50)
    hard = rng.normal(3, 1, 40)[groups] + rng.standard_normal(len(groups))
    other = hard + 0.01 + 0.02 * rng.standard_normal(len(groups))
    found = paired_comparison(hard, other, groups)
    assert found.mean == pytest.approx(0.01, abs=0.002)
    assert 0 < found.low < found.mean < found.high
    assert found.percent == pytest.approx(100 * (math.exp(found.mean) - 1))
    assert found.percent_low < found.percent < found.percent_high
    alone = interval(other, groups)
    assert found.high - found.low < 0.05 * (alone.high - alone.low)
    turned = paired_comparison(other, hard, groups)
    assert (turned.mean, turned.low) == pytest.approx((-found.mean, -found.high), abs=1e-3)


def test_the_same_model_differs_by_nothing() -> None:
    nats = np.random.default_rng(0).standard_exponential(100)
    found = paired_comparison(nats, nats.copy(), np.repeat(np.arange(10), 10))
    assert (found.mean, found.low, found.high, found.percent) == (0, 0, 0, 0)


def test_a_seed_repeats_an_interval() -> None:
    values, groups = np.random.default_rng(0).normal(size=100), np.repeat(np.arange(20), 5)
    assert interval(values, groups, seed=1) == interval(values, groups, seed=1)
    assert interval(values, groups, seed=1) != interval(values, groups, seed=2)


def test_too_few_groups_promise_nothing() -> None:
    found = paired_comparison(np.ones(8), np.ones(8) * 1.1, np.repeat(np.arange(4), 2))
    assert (found.low, found.high) == (-math.inf, math.inf)
    assert not found.percent_high <= 1e9, "no bound can be kept"
    facts = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert facts["percent"] == pytest.approx(10.517, abs=1e-3)
    assert facts["low"] is facts["percent_low"] is facts["percent_high"] is None


def test_students_t() -> None:
    """Against the usual table, 97.5 %."""
    for freedom, wanted in ((4, 2.776), (9, 2.262), (30, 2.042), (1000, 1.962)):
        assert _student(0.975, freedom) == pytest.approx(wanted, rel=5e-3)
    assert _tail(100_000) == pytest.approx(0.025, rel=1e-3)


def test_what_cannot_be_compared() -> None:
    with pytest.raises(OptionError, match="cannot be paired"):
        paired_comparison(np.ones(3), np.ones(4))
    with pytest.raises(OptionError, match="nothing to take a mean of"):
        interval(np.empty(0))


def test_groups_without_weight_have_no_say() -> None:
    """The last window of the transformers protocol may weigh nothing."""
    values, groups = np.array([1.0, 2.0, 4.0, 3.0, 2.5, 9.0]), np.arange(6)
    weights = np.array([1.0, 1.0, 1.0, 1.0, 1.0, 0.0])
    found = interval(values, groups, weights=weights)
    assert found == interval(values[:5], groups[:5])
    assert math.isfinite(found.low)
