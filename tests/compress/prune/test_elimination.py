"""The order of elimination against brute force and against exact least squares."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch

from gpt2fast.compress.prune import elimination
from gpt2fast.compress.prune.elimination import removal_costs
from gpt2fast.compress.prune.reconstruct import reconstruct, removal_error
from support.least_squares import moment_of, rows_with_correlations


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


@pytest.mark.parametrize("size", [1, 2])
def test_of_twins_one_stays_also_where_many_go_in_a_round(
    size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(elimination, "_DAMPING", 1e-4)  # as usual: the twins are nearly singular
    groups = 256  # two a round
    noise = torch.Generator().manual_seed(4)
    first = torch.randn(2000, groups // 2, size, dtype=torch.float64, generator=noise)
    rows = torch.stack([first, first], 2).flatten(1)  # each group is followed by its twin
    rows = rows + 1e-2 * torch.randn(rows.shape, dtype=rows.dtype, generator=noise)
    weight = torch.randn(len(rows.T), 5, dtype=torch.float64, generator=noise)
    costs = removal_costs(moment_of(rows).covariance, weight, size)
    gone = torch.zeros(groups, dtype=torch.bool)
    gone[costs.argsort(stable=True)[: groups // 2]] = True
    pairs = gone.view(-1, 2).sum(1)
    assert int((pairs == 2).sum()) == 0


def test_what_a_round_costs_is_what_its_groups_cost_one_by_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = rows_with_correlations(300, 24, 3)
    weight = torch.randn(24, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    slow = removal_costs(moment_of(rows).covariance, weight, 2)
    monkeypatch.setattr(elimination, "_ROUNDS", 4)  # three at once
    fast = removal_costs(moment_of(rows).covariance, weight, 2)
    assert float(fast.sum()) <= 2 * float(slow.sum())
    best = slow.argsort()[:6].tolist()
    assert len(set(best) & set(fast.argsort()[:6].tolist())) >= 4


def test_one_group_is_never_removed() -> None:
    assert removal_costs(torch.eye(4, dtype=torch.float64), torch.ones(4, 2), 4).shape == (1,)
