"""Wanda is magnitude where inputs are alike, and the better choice where they are not."""

from __future__ import annotations

import pytest
import torch

from gpt2fast.compress.prune.masks import Pattern, mask_of_rows
from gpt2fast.compress.prune.wanda import wanda

PATTERNS = [Pattern(0.5), Pattern.parse("2:4", 0.0)]


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
def test_equal_norms_give_magnitude_of_each_row(pattern: Pattern) -> None:
    weight = torch.randn(10, 32, generator=torch.Generator().manual_seed(0))
    new = wanda(weight, torch.full((32,), 7.0), pattern)
    assert torch.equal(new, weight.masked_fill(mask_of_rows(weight.abs(), pattern), 0.0))


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
def test_no_other_mask_loses_less_without_correlations(pattern: Pattern) -> None:
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(10, 32, generator=generator)
    square = torch.rand(32, generator=generator) ** 4

    def lost(mask: torch.Tensor) -> float:
        return float((weight**2 * square)[mask].sum())

    best = lost(wanda(weight, square, pattern) == 0)
    assert best < lost(mask_of_rows(weight.abs(), pattern))
    for _ in range(20):
        other = mask_of_rows(torch.rand(10, 32, generator=generator), pattern)
        assert best <= lost(other)


def test_the_power_leads_from_magnitude_to_wanda() -> None:
    generator = torch.Generator().manual_seed(2)
    weight, square = torch.randn(10, 32, generator=generator), torch.rand(32, generator=generator)
    found = [wanda(weight, square, Pattern(0.5), power) == 0 for power in (0.0, 0.5, 1.0)]
    assert torch.equal(found[0], mask_of_rows(weight.abs(), Pattern(0.5)))
    assert torch.equal(found[2], wanda(weight, square, Pattern(0.5)) == 0)
    changed = [int((mask != found[0]).sum()) for mask in found]
    assert 0 == changed[0] < changed[1] < changed[2]


def test_inputs_that_are_never_on_go_first() -> None:
    square = torch.ones(8)
    square[2:6] = 0
    new = wanda(torch.arange(1.0, 17.0).view(2, 8), square, Pattern(0.5))
    assert ((new == 0) == (square == 0)).all()
