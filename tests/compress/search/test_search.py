"""The search finds what trying everything finds, and tries less."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt2fast.compress.budget import Budget, BudgetError, Measured
from gpt2fast.compress.recipe.recipe import Recipe
from gpt2fast.compress.search.search import (
    Candidate,
    TrialResult,
    best_first,
    nearest,
    pareto,
    search,
)

LEVELS = (3, 5, 2)


@st.composite
def worlds(draw: st.DrawFn) -> tuple[list[Candidate], dict[Candidate, Measured]]:
    """Candidates whose loss rises with each level; bytes fall, speed rises with fewer bytes."""
    steps = [draw(st.lists(st.floats(0.01, 2.0), min_size=n, max_size=n)) for n in LEVELS]
    saved = [draw(st.lists(st.integers(1, 50), min_size=n, max_size=n)) for n in LEVELS]
    measured = {}
    for levels in product(*map(range, LEVELS)):
        loss = sum(sum(s[: level + 1]) for s, level in zip(steps, levels, strict=True))
        size = 1000 - sum(sum(s[: level + 1]) for s, level in zip(saved, levels, strict=True))
        speed = 1000 / size
        measured[Candidate(Recipe(()), levels, size)] = Measured(loss, loss, loss, speed, size)
    return list(measured), measured


@given(worlds(), st.floats(0.05, 10.0), st.floats(1.0, 1.4) | st.none())
@settings(max_examples=200, deadline=None)
def test_the_smallest_that_keeps_the_budget_is_found(
    world: tuple[list[Candidate], dict[Candidate, Measured]], loss: float, speed: float | None
) -> None:
    candidates, measured = world
    budget = Budget(max_loss=loss, min_speedup=speed)
    tried = search(candidates, budget, measured.__getitem__)
    good = [c for c in candidates if budget.holds(measured[c])]
    found = best_first(tried, budget)
    assert bool(found) == bool(good)
    if good:
        assert found[0].candidate.step_bytes == min(c.step_bytes for c in good)
    assert len({t.candidate for t in tried}) == len(tried), "nothing is tried twice"


def test_few_are_tried() -> None:
    candidates = [Candidate(Recipe(()), (level,), 1000 - level) for level in range(64)]
    measured = {
        c: Measured(c.levels[0], c.levels[0], c.levels[0], c.levels[0], c.step_bytes)
        for c in candidates
    }
    tried = search(candidates, Budget(max_loss=20.0), measured.__getitem__)
    assert len(tried) <= 7
    assert best_first(tried, Budget(max_loss=20.0))[0].candidate.levels == (20,)


def tried(loss: float, speed: float, size: int) -> TrialResult:
    return TrialResult(Candidate(Recipe(()), (0,), size), Measured(loss, loss, loss, speed, size))


def test_the_nearest_misses_least() -> None:
    budget = Budget(max_loss=1.0, min_speedup=4.0)
    items = [tried(1.5, 4.5, 10), tried(1.1, 4.5, 20), tried(3.0, 2.0, 5)]
    assert nearest(items, budget) == items[1]


def test_pareto_keeps_what_nothing_beats() -> None:
    a, b, c, d = tried(0.1, 2, 1), tried(0.5, 4, 1), tried(0.6, 3, 1), tried(0.5, 3, 1)
    assert pareto([d, c, b, a]) == [a, b]


@given(worlds(), st.floats(1.0, 1.6))
@settings(max_examples=100, deadline=None)
def test_without_an_allowed_loss_the_least_is_found(
    world: tuple[list[Candidate], dict[Candidate, Measured]], speed: float
) -> None:
    candidates, measured = world
    budget = Budget(min_speedup=speed)
    found = best_first(search(candidates, budget, measured.__getitem__), budget)
    good = [c for c in candidates if budget.holds(measured[c])]
    assert bool(found) == bool(good)
    if good:
        assert found[0].measured.loss == min(measured[c].loss for c in good)


def test_what_is_known_to_be_too_large_is_not_tried() -> None:
    candidates = [Candidate(Recipe(()), (n,), 100 - n, 100 - n) for n in range(10)]
    with pytest.raises(BudgetError, match="cannot be reached"):
        search(candidates, Budget(max_bytes=50), {}.__getitem__)
