"""Counts under a total, and the most important units."""

from __future__ import annotations

import pytest
import torch

from gpt2fast.compress.prune.selection import keep_global, keep_uniform
from gpt2fast.errors import OptionError

VALUES = [torch.arange(64.0), torch.arange(64.0) + 100.0, torch.arange(40.0) / 10]


def test_uniform_counts_and_the_best_of_each() -> None:
    kept = keep_uniform(VALUES[:2], 0.6, 16)  # 38 wanted
    assert [len(k) for k in kept] == [32, 32]
    assert kept[0].tolist() == list(range(32, 64))


def test_global_counts_follow_importance_and_stay_under_the_total() -> None:
    kept = keep_global(VALUES, 0.6, 16)  # 100 of 168
    assert [len(k) for k in kept] == [16, 64, 16]
    assert kept[2].tolist() == list(range(24, 40))


def test_everything_and_almost_nothing() -> None:
    assert [len(k) for k in keep_global(VALUES, 1.0, 16)] == [64, 64, 40]
    assert [len(k) for k in keep_uniform(VALUES[:2], 1.0, 16)] == [64, 64]
    assert [len(k) for k in keep_global(VALUES, 0.01, 16)] == [16, 16, 16]
    assert [len(k) for k in keep_global(VALUES, 0.01, 1)] == [1, 1, 1]
    assert [len(k) for k in keep_uniform(VALUES[:2], 0.01, 16)] == [16, 16]


def test_layers_of_different_widths_cannot_be_made_uniform() -> None:
    with pytest.raises(OptionError, match="different widths already"):
        keep_uniform(VALUES, 0.5, 16)


def test_a_fraction_that_is_exact_is_not_lost_to_rounding() -> None:
    values = [torch.rand(100) for _ in range(3)]
    assert sum(len(k) for k in keep_global(values, 0.57, 1)) == 171


def test_ties_keep_the_first() -> None:
    assert keep_global([torch.zeros(4), torch.zeros(4)], 0.5, 1)[0].tolist() == [0, 1, 2]
