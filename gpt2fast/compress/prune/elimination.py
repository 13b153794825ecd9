"""Removing groups of inputs one after another where the rest can best make up for them.

The optimal brain surgeon (Hassibi and Stork 1993) for groups of inputs, as in ZipLM (Kurtic et al.
2023). With ``P``, the inverse of the covariance of what is left, taking out the group g adds

    tr(W_g^T (P_gg)^-1 W_g)

to the squared error if the others take over by least squares; then ``W -= P_:g (P_gg)^-1 W_g`` and
P loses the same share. Shapes: K inputs, U groups of D adjacent inputs, N outputs.
"""

from __future__ import annotations

import torch
from torch import Tensor

_DAMPING = 1e-4  # of the mean variance: costs are to be compared, not to be exact
_ROUNDS = 128  # at most about so many updates of a (K, K) matrix


def removal_costs(covariance: Tensor, weight: Tensor, size: int) -> Tensor:
    """What taking out each group adds to the mean squared error, in the order in which taking out
    is cheapest: (U,) float64, never less than for a group taken out earlier.

    ``covariance`` (K, K) of the inputs, ``weight`` (K, N), ``size`` D. The last group is never
    taken out, and has the cost of the one before it.
    """
    groups = len(weight) // size
    weight, inverse = weight.clone(), _inverse(covariance)
    costs = torch.zeros(groups, dtype=torch.float64, device=weight.device)
    left = torch.arange(groups, device=weight.device)
    at_once, floor = max(1, groups // _ROUNDS), 0.0
    while len(left) > 1:
        cost = _costs(inverse, weight, size)
        order = cost.argsort()[: min(at_once, len(left) - 1)]
        order, now = _one_after_another(inverse, weight, order, cost, size)
        now = now.clamp(min=floor).cummax(0).values
        costs[left[order]] = now
        floor = float(now[-1])
        weight, inverse = _without(inverse, weight, order, size)
        remain = torch.ones(len(left), dtype=torch.bool, device=left.device)
        remain[order] = False
        left = left[remain]
    costs[left] = floor
    return costs


def _inverse(covariance: Tensor) -> Tensor:
    mean = covariance.diagonal().mean()
    ridge = _DAMPING * mean + torch.finfo(torch.float64).tiny
    eye = torch.eye(len(covariance), dtype=torch.float64, device=covariance.device)
    inverse: Tensor = torch.linalg.inv(covariance + ridge * eye)
    return inverse


def _costs(inverse: Tensor, weight: Tensor, size: int) -> Tensor:
    """(groups left,)"""
    own = weight.unflatten(0, (-1, size))  # (U, D, N)
    if size == 1:
        costs: Tensor = own[:, 0].square().sum(1) / inverse.diagonal()
        return costs
    blocks = inverse.unflatten(0, (-1, size)).unflatten(2, (-1, size))
    blocks = blocks.diagonal(dim1=0, dim2=2).permute(2, 0, 1)  # (U, D, D)
    costs = (own * torch.linalg.solve(blocks, own)).sum((1, 2))
    return costs


def _one_after_another(
    inverse: Tensor, weight: Tensor, order: Tensor, cost: Tensor, size: int
) -> tuple[Tensor, Tensor]:
    """Of the groups ``order``, by ascending ``cost`` alone, those that may go in one round, and
    what each costs behind those before it. Of two that stand in for each other the second stays."""
    if len(order) == 1:
        return order, cost[order]
    most = cost[order[-1]]
    fits = _costs_behind(inverse, weight, order, size) <= most * (1 + 1e-9)
    fits[0] = True  # also where rounding has left no factor, and no cost is a number
    order = order[fits]
    if len(order) == 1:
        return order, cost[order]
    # Without those that stay, the others cost no more than they did.
    return order, _costs_behind(inverse, weight, order, size)


def _costs_behind(inverse: Tensor, weight: Tensor, order: Tensor, size: int) -> Tensor:
    """What each of the groups ``order`` (G,) adds when those before it are gone: their sum, the
    cost of all, is ``W^T P^-1 W``, and a Cholesky factor of P shares it out in that order. NaN
    where P has none."""
    inputs = (order[:, None] * size + torch.arange(size, device=order.device)).flatten()
    lower, failed = torch.linalg.cholesky_ex(inverse[inputs][:, inputs])
    if int(failed):
        return torch.full(order.shape, torch.nan, dtype=weight.dtype, device=weight.device)
    shares: Tensor = torch.linalg.solve_triangular(lower, weight[inputs], upper=False)
    costs: Tensor = shares.square().sum(1).unflatten(0, (-1, size)).sum(1)
    return costs


def _without(inverse: Tensor, weight: Tensor, groups: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """``weight`` and ``inverse`` of what is left when ``groups`` are gone."""
    mask = torch.zeros(len(weight) // size, dtype=torch.bool, device=weight.device)
    mask[groups] = True
    mask = mask.repeat_interleave(size)
    gone, rest = mask.nonzero()[:, 0], (~mask).nonzero()[:, 0]
    across = inverse[rest][:, gone]
    share = torch.linalg.solve(inverse[gone][:, gone], across.T).T  # (rest, gone)
    return weight[rest] - share @ weight[gone], inverse[rest][:, rest] - share @ across.T
