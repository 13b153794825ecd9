"""SparseGPT against exact least squares for the same zeros, and what must make it worse."""

from __future__ import annotations

import pytest
import torch

from gpt2fast.compress.prune.masks import Pattern, mask_of_rows
from gpt2fast.compress.prune.sparsegpt import sparsegpt
from gpt2fast.compress.prune.wanda import wanda
from support.least_squares import (
    masked_least_squares,
    moment_of,
    rows_with_correlations,
    squared_error,
)

TINY = 1e-9  # damping


def weights(outputs: int, inputs: int, seed: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(outputs, inputs, dtype=torch.float64, generator=generator)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("text", ["unstructured", "2:4"])
def test_never_below_exact_least_squares_and_near_it(text: str, seed: int) -> None:
    rows, weight = rows_with_correlations(400, 32, seed), weights(12, 32)
    pattern = Pattern.parse(text, 0.5)
    new = sparsegpt(weight, moment_of(rows).matrix, pattern, TINY)
    bound = squared_error(rows, weight, masked_least_squares(rows, weight, new == 0))
    plain = squared_error(rows, weight, weight.masked_fill(new == 0, 0.0))
    error = squared_error(rows, weight, new)
    assert bound <= error * (1 + 1e-9)
    assert plain - error >= 0.5 * (plain - bound), "half at least of what can be made up for"


@pytest.mark.parametrize("block", [5, 128])
def test_it_is_least_squares_of_the_columns_that_are_left(block: int) -> None:
    """Column after column is fixed, and all that come later fitted again: by QR."""
    rows, weight = rows_with_correlations(200, 16, 1), weights(6, 16)
    new = sparsegpt(weight, moment_of(rows).matrix, Pattern(0.5), TINY, block)
    exact = weight.clone()
    for column in range(15):
        exact[:, column] = exact[:, column].masked_fill(new[:, column] == 0, 0.0)
        missing = rows @ weight.T - rows[:, : column + 1] @ exact[:, : column + 1].T
        exact[:, column + 1 :] = torch.linalg.lstsq(rows[:, column + 1 :], missing).solution.T
    exact[:, 15] = exact[:, 15].masked_fill(new[:, 15] == 0, 0.0)
    torch.testing.assert_close(new, exact, rtol=1e-4, atol=1e-4)


def test_zeros_of_the_first_column_alone_are_made_up_for_exactly() -> None:
    rows, weight = rows_with_correlations(300, 16, 0), weights(8, 16)
    weight[:, 0] = 1e-6 * weight[:, 0]
    new = sparsegpt(weight, moment_of(rows).matrix, Pattern(1 / 16), TINY)
    assert (new[:, 0] == 0).all()
    exact = masked_least_squares(rows, weight, new == 0)
    torch.testing.assert_close(new, exact, rtol=1e-4, atol=1e-6)


def test_without_correlations_it_is_magnitude_times_norm() -> None:
    """With a diagonal moment nothing can take over, and the choice is Wanda's, of each block."""
    generator = torch.Generator().manual_seed(1)
    square, weight = torch.rand(24, dtype=torch.float64, generator=generator) + 0.1, weights(1, 24)
    moment = torch.diag(square)
    new = sparsegpt(weight, moment, Pattern(0.5), TINY)
    torch.testing.assert_close(new, wanda(weight, square, Pattern(0.5)), rtol=1e-12, atol=0)


@pytest.mark.parametrize("block", [8, 13, 40, 128])
def test_blocks_have_together_what_was_asked_for(block: int) -> None:
    rows, weight = rows_with_correlations(100, 40, 2), weights(7, 40)
    new = sparsegpt(weight, moment_of(rows).matrix, Pattern(0.37), block=block)
    assert int((new == 0).sum()) == round(0.37 * 280)


def test_errors_must_be_handed_on_in_the_right_proportions() -> None:
    rows, weight = rows_with_correlations(400, 32, 5), weights(12, 32)
    moment = moment_of(rows).matrix
    error = squared_error(rows, weight, sparsegpt(weight, moment, Pattern(0.5)))
    shuffled = moment[torch.randperm(32, generator=torch.Generator().manual_seed(0))]
    shuffled = shuffled @ shuffled.T  # of other inputs: symmetric, and wrong
    assert squared_error(rows, weight, sparsegpt(weight, shuffled, Pattern(0.5))) > 2 * error
    mask = mask_of_rows(weight.abs() * moment.diagonal().sqrt(), Pattern(0.5))
    assert squared_error(rows, weight, weight.masked_fill(mask, 0.0)) > 1.5 * error, "Wanda"


def test_dead_and_dependent_inputs() -> None:
    rows, weight = rows_with_correlations(10, 32, 6), weights(4, 32)  # rank 10
    rows[:, 3] = 0
    new = sparsegpt(weight, moment_of(rows).matrix, Pattern(0.5), damping=0.0)
    assert bool(new.isfinite().all())
    assert int((new == 0).sum()) == 64


@pytest.mark.parametrize("text", ["unstructured", "2:4"])
@pytest.mark.parametrize("size", [1.0, 0.03])
def test_weights_of_dead_inputs_go_first_whatever_the_size_of_the_others(
    text: str, size: float
) -> None:
    """They cost nothing: what is left to zero is as little as without them."""
    rows, weight = size * rows_with_correlations(600, 64, 8), weights(12, 64)
    rows[:, ::4] = 0
    new = sparsegpt(weight, moment_of(rows).matrix, Pattern.parse(text, 0.5))
    assert bool((new[:, ::4] == 0).all())
    plain = wanda(weight, moment_of(rows).square, Pattern.parse(text, 0.5))
    assert squared_error(rows, weight, new) < squared_error(rows, weight, plain)


def test_of_two_and_four_those_go_that_cost_least() -> None:
    """The diagonal of the inverse has a say: of the first four columns, before anything moved."""
    rows, weight = rows_with_correlations(400, 32, 9), weights(12, 32)
    moment = moment_of(rows).matrix
    inverse = torch.linalg.inv(moment)
    upper = torch.linalg.cholesky(inverse, upper=True).diagonal()
    cost = (weight[:, :4] / upper[:4]) ** 2
    expected = cost.argsort(1)[:, :2].sort(1).values
    new = sparsegpt(weight, moment, Pattern.parse("2:4", 0.5), TINY)
    zeros = (new[:, :4] == 0).nonzero()[:, 1].view(12, 2)
    assert torch.equal(zeros, expected)
    assert not torch.equal(expected, (weight[:, :4] ** 2).argsort(1)[:, :2].sort(1).values)
