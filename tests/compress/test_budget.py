"""A budget: read from words, held or missed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gpt2fast.compress.budget import Budget, Measured, parse_percent, parse_size
from gpt2fast.errors import OptionError

GOOD = Measured(loss=0.8, loss_low=0.7, loss_high=0.9, speedup=5.0, num_bytes=80_000_000)
BUDGET = Budget(max_loss=1.0, min_speedup=4.0, max_bytes=90_000_000)


def test_all_that_is_asked_must_hold() -> None:
    assert BUDGET.holds(GOOD)
    assert not BUDGET.misses(GOOD)
    for change in ({"loss_high": 1.01}, {"speedup": 3.99}, {"num_bytes": 90_000_001}):
        worse = replace(GOOD, **change)
        assert not BUDGET.holds(worse)
        assert len(BUDGET.misses(worse)) == 1
    assert Budget().holds(replace(GOOD, loss=1e9, loss_high=1e9))


def test_the_upper_bound_counts_and_not_the_mean() -> None:
    uncertain = replace(GOOD, loss=0.5, loss_low=-1.0, loss_high=1.5)
    assert not BUDGET.holds_loss(uncertain)
    assert not BUDGET.holds_loss(GOOD, share=0.8)


@pytest.mark.parametrize(
    ("text", "value"), [("1%", 1.0), ("0.5 %", 0.5), (".25%", 0.25), ("120%", 120.0)]
)
def test_percent(text: str, value: float) -> None:
    assert parse_percent(text) == value


@pytest.mark.parametrize("text", ["1", "0.01", "%", "one%", "-1%", "1%%", ""])
def test_not_a_percentage(text: str) -> None:
    with pytest.raises(OptionError, match="write it as 1%"):
        parse_percent(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [("90MB", 90_000_000), ("1.5 gb", 1_500_000_000), ("64MiB", 2**26), ("1000", 1000)],
)
def test_size(text: str, value: int) -> None:
    assert parse_size(text) == value


@pytest.mark.parametrize("text", ["MB", "90 meters", "-3MB", "", "1TB"])
def test_not_a_size(text: str) -> None:
    with pytest.raises(OptionError, match="write it as 90MB"):
        parse_size(text)


@pytest.mark.parametrize("fields", [{"max_loss": 0.0}, {"min_speedup": 0.0}, {"max_bytes": 0}])
def test_nonsense_is_refused(fields: dict[str, float]) -> None:
    with pytest.raises(OptionError):
        Budget(**fields)  # type: ignore[arg-type]
