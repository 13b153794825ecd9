"""The order of elimination against brute force and against exact least squares."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch

from gpt2fast.compress.prune import elimination
from gpt2fast.compress.prune.elimination import removal_costs
from gpt2fast.compress.prune.reconstruct import reconstruct, removal_error
from least_squares import moment_of, rows_with_correlations


@pytest.fixture(autouse=True)
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(elimination, "_DAMPING", 0.0)


def error_without(rows: torch.Tensor, weight: torch.Tensor, removed: tuple[int, ...]) -> float:
    """Summed squared error after the best fit without these inputs."""
    kept = torch.tensor([i for i in range(len(weight)) if i not in removed])
    bias = torch.zeros(weight.shape[1], dtype=weight.dtype)
    moment = moment_of(rows)
    new, shifted = reconstruct(moment, weight, bias, kept, ridge=0.0)
    energy = float((weight * (moment.matrix @ weight)).sum())
    return energy * removal_error(moment, weight, kept, new, shifted - bias)


@pytest.mark.parametrize("seed", range(3))
def test_costs_add_up_to_the_error_of_the_fit(seed: int) -> None:
    rows = rows_with_correlations(300, 10, seed)
    weight = torch.randn(10, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    costs = removal_costs(moment_of(rows).covariance, weight, 1)
    first, second = costs.argsort()[:2].tolist()
    assert float(costs[first]) == pytest.approx(error_without(rows, weight, (first,)), rel=1e-5)
    assert first == min(range(10), key=lambda i: error_without(rows, weight, (i,)))
    together = error_without(rows, weight, (first, second))
    assert float(costs[first] + costs[second]) >= together * (1 - 1e-6)
    best = min(error_without(rows, weight, pair) for pair in combinations(range(10), 2))
    assert together <= 4 * best


def test_groups_of_rows_go_together() -> None:
    rows = rows_with_correlations(300, 12, 0)
    weight = torch.randn(12, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(7))
    costs = removal_costs(moment_of(rows).covariance, weight, 4)
    alone = [error_without(rows, weight, tuple(range(4 * g, 4 * g + 4))) for g in range(3)]
    assert int(costs.argmin()) == alone.index(min(alone))
    assert float(costs.min()) == pytest.approx(min(alone), rel=1e-5)


def test_a_copy_costs_nothing_though_it_is_active() -> None:
    rows = rows_with_correlations(300, 6, 1)
    rows = torch.cat([rows, 5 * rows[:, :1]], 1)
    weight = torch.ones(7, 3, dtype=torch.float64)
    costs = removal_costs(moment_of(rows).covariance, weight, 1)
    assert int(costs.argmin()) in (0, 6)
    assert float(costs.min()) < 1e-6 * float(costs.median())


def test_one_group_is_never_removed() -> None:
    assert removal_costs(torch.eye(4, dtype=torch.float64), torch.ones(4, 2), 4).shape == (1,)
