"""Exactly as many zeros as asked for, where the scores are smallest."""

from __future__ import annotations

import pytest
import torch

from gpt2fast.compress.prune.masks import Pattern, mask_of_matrix, mask_of_rows
from gpt2fast.errors import OptionError


@pytest.fixture
def scores() -> torch.Tensor:
    return torch.rand(24, 40, generator=torch.Generator().manual_seed(0))


def test_rows_have_their_fraction_of_zeros(scores: torch.Tensor) -> None:
    mask = mask_of_rows(scores, Pattern(0.3))
    assert (mask.sum(1) == 12).all()
    largest_zero = scores.masked_fill(~mask, 0).amax(1)
    assert (largest_zero <= scores.masked_fill(mask, 2).amin(1)).all()


def test_a_matrix_has_its_fraction_of_zeros(scores: torch.Tensor) -> None:
    mask = mask_of_matrix(scores, Pattern(0.3))
    assert int(mask.sum()) == 288
    assert mask.sum(1).unique().numel() > 1, "rows compete"
    assert scores[mask].max() <= scores[~mask].min()


def test_equal_scores_are_no_reason_for_other_counts() -> None:
    assert int(mask_of_matrix(torch.ones(6, 10), Pattern(0.5)).sum()) == 30


@pytest.mark.parametrize(("text", "group", "zeros"), [("2:4", 4, 2), ("1:4", 4, 3), ("4:8", 8, 4)])
def test_groups(scores: torch.Tensor, text: str, group: int, zeros: int) -> None:
    pattern = Pattern.parse(text, 0.9)
    for mask in (mask_of_rows(scores, pattern), mask_of_matrix(scores, pattern)):
        assert (mask.unflatten(1, (-1, group)).sum(-1) == zeros).all()


@pytest.mark.parametrize("text", ["4:2", "2:2", "0:4", "2:3", "2:256", "half", "", "-1:4", "2:4 "])
def test_patterns_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(OptionError, match="pattern"):
        Pattern.parse(text, 0.5)


@pytest.mark.parametrize("sparsity", [-0.1, 1.0, float("nan")])
def test_sparsities_that_are_none_are_refused(sparsity: float) -> None:
    with pytest.raises(OptionError, match="sparsity"):
        Pattern.parse("unstructured", sparsity)


def test_a_group_must_divide_the_row() -> None:
    with pytest.raises(OptionError, match="42 inputs"):
        mask_of_rows(torch.rand(2, 42), Pattern.parse("2:4", 0.5))
