"""What remains is the least-squares fit, which can only be better than what there was."""

from __future__ import annotations

import pytest
import torch

from gpt2fast.compress.prune.reconstruct import reconstruct, removal_error
from support.least_squares import moment_of, rows_with_correlations

KEPT = torch.tensor([0, 2, 3, 7, 8, 11, 15])


@pytest.fixture
def problem() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Inputs (300, 16), weight (16, 5), bias (5,)."""
    generator = torch.Generator().manual_seed(9)
    weight = torch.randn(16, 5, dtype=torch.float64, generator=generator)
    bias = torch.randn(5, dtype=torch.float64, generator=generator)
    return rows_with_correlations(300, 16, 0), weight, bias


def test_it_is_the_fit_of_weights_and_bias_together(
    problem: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
) -> None:
    rows, weight, bias = problem
    new, shifted = reconstruct(moment_of(rows), weight, bias, KEPT, ridge=0.0)
    with_one = torch.cat([rows[:, KEPT], torch.ones(300, 1, dtype=rows.dtype)], 1)
    exact = torch.linalg.lstsq(with_one, rows @ weight + bias).solution
    torch.testing.assert_close(new, exact[:-1], rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(shifted, exact[-1], rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("seed", range(5))
def test_never_worse_than_nothing(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    rows = rows_with_correlations(40, 16, seed)
    weight = torch.randn(16, 5, dtype=torch.float64, generator=generator)
    bias, zero = torch.zeros(5, dtype=torch.float64), torch.zeros(5, dtype=torch.float64)
    moment = moment_of(rows)
    plain = removal_error(moment, weight, KEPT, weight[KEPT], zero)
    errors = []
    for ridge in (0.0, 1e-3, 1e-1, 1e3):
        new, shifted = reconstruct(moment, weight, bias, KEPT, ridge)
        errors.append(removal_error(moment, weight, KEPT, new, shifted - bias))
    assert errors == sorted(errors), "a stronger pull fits the text less"
    assert errors[-1] <= plain, "the bias alone takes the mean over"
    assert errors[0] < plain / 2


def test_errors_are_those_of_the_outputs(
    problem: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
) -> None:
    rows, weight, bias = problem
    new, shifted = reconstruct(moment_of(rows), weight, bias, KEPT, ridge=0.1)
    found = removal_error(moment_of(rows), weight, KEPT, new, shifted - bias)
    difference = rows @ weight + bias - (rows[:, KEPT] @ new + shifted)
    exact = difference.square().sum() / (rows @ weight).square().sum()
    assert found == pytest.approx(float(exact), rel=1e-9)


def test_a_strong_ridge_keeps_the_weights_and_moves_the_bias(
    problem: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
) -> None:
    rows, weight, bias = problem
    new, shifted = reconstruct(moment_of(rows), weight, bias, KEPT, ridge=1e12)
    torch.testing.assert_close(new, weight[KEPT], rtol=1e-6, atol=1e-6)
    gone = [i for i in range(16) if i not in KEPT.tolist()]
    torch.testing.assert_close(shifted, bias + rows.mean(0)[gone] @ weight[gone])


def test_inputs_that_say_nothing_do_no_harm(
    problem: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
) -> None:
    rows, weight, bias = problem
    rows = rows[:5]  # fewer than inputs
    rows[:, 2] = 1.5  # constant
    new, shifted = reconstruct(moment_of(rows), weight, bias, KEPT, ridge=0.0)
    assert bool(new.isfinite().all())
    assert bool(shifted.isfinite().all())
    torch.testing.assert_close(
        rows[:, KEPT] @ new + shifted, rows @ weight + bias, atol=1e-3, rtol=0
    )


def test_inputs_without_their_correlations_mislead(
    problem: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
) -> None:
    """The control: each input by itself as it is, all of them out of step."""
    rows, weight, bias = problem
    generator = torch.Generator().manual_seed(0)
    apart = torch.stack([each[torch.randperm(300, generator=generator)] for each in rows.T], 1)
    errors = []
    for text in (rows, apart):
        new, shifted = reconstruct(moment_of(text), weight, bias, KEPT, ridge=0.0)
        errors.append(removal_error(moment_of(rows), weight, KEPT, new, shifted - bias))
    assert 2 * errors[0] < errors[1]
