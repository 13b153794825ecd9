"""Least squares: what remains of a matrix takes over from what is removed, in closed form.

``y = x W + b`` becomes ``x_S W' + b'`` for the kept inputs S, so that the mean squared difference
on calibration text is least. With the covariance ``A`` of x and the removed inputs R,

    W' = W_S + (A_SS + r I)^-1 A_SR W_R,        b' = b + mean_R W_R + mean_S (W_S - W'),

where the ridge ``r`` draws W' to the original W_S where the text says too little. The mean of what
is removed goes into the bias, so only what varies is lost.
Shapes: K inputs, N outputs, S kept and R removed inputs; weights (K, N) as in Conv1D.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gpt2fast.compress.calibration.moments import SecondMoment

_SMALLEST = 1e-12  # ridge, of the mean variance: an input that never varies has no inverse


def reconstruct(
    moment: SecondMoment, weight: Tensor, bias: Tensor, kept: Tensor, ridge: float
) -> tuple[Tensor, Tensor]:
    """``W'`` (S, N) and ``b'`` (N,) for the inputs ``kept`` (S,), in the dtype of ``weight``.

    ``ridge`` is in units of the mean variance of the kept inputs.
    """
    exact, covariance = weight.double(), moment.covariance
    removed = _others(kept, len(exact))
    among = covariance[kept][:, kept]
    change = solve(among, covariance[kept][:, removed] @ exact[removed], ridge)
    moved = moment.mean[removed] @ exact[removed] - moment.mean[kept] @ change
    return (exact[kept] + change).to(weight.dtype), (bias.double() + moved).to(bias.dtype)


def solve(matrix: Tensor, right: Tensor, ridge: float) -> Tensor:
    """``(matrix + r I)^-1 right`` for a positive semidefinite ``matrix`` (K, K), r being ``ridge``
    times its mean diagonal, or as much more as the factorization needs."""
    mean = matrix.diagonal().mean().clamp(min=torch.finfo(matrix.dtype).tiny)
    ridge = max(ridge, _SMALLEST)
    while True:
        damped = matrix + ridge * mean * torch.eye(len(matrix), dtype=matrix.dtype).to(matrix)
        factor, failed = torch.linalg.cholesky_ex(damped)
        if not failed or not bool(damped.isfinite().all()):
            return torch.cholesky_solve(right, factor)
        ridge *= 10


def removal_error(
    moment: SecondMoment, weight: Tensor, kept: Tensor, new: Tensor, shift: Tensor
) -> float:
    """Mean ``|y - y'|^2`` over mean ``|y - b|^2`` when the rows ``kept`` of ``weight`` (K, N) have
    become ``new`` (S, N), the others are gone and the bias has moved by ``shift`` (N,)."""
    difference = weight.to(torch.float64, copy=True)
    difference[kept] -= new.double()
    shift = shift.double()
    error = (difference * (moment.matrix @ difference)).sum()
    error = error - 2 * (moment.mean @ difference) @ shift + shift @ shift
    return float(error.clamp(min=0) / _energy(moment, weight))


def output_error(moment: SecondMoment, weight: Tensor, new: Tensor) -> float:
    """Mean ``|y - y'|^2`` over mean ``|y - b|^2`` when ``weight`` (K, N) has become ``new``."""
    difference = (weight - new).double()
    error = (difference * (moment.matrix @ difference)).sum()
    return float(error.clamp(min=0) / _energy(moment, weight))


def _energy(moment: SecondMoment, weight: Tensor) -> Tensor:
    exact = weight.double()
    energy = (exact * (moment.matrix @ exact)).sum()
    return energy.clamp(min=torch.finfo(torch.float64).tiny)


def _others(kept: Tensor, count: int) -> Tensor:
    mask = torch.ones(count, dtype=torch.bool, device=kept.device)
    mask[kept] = False
    return mask.nonzero()[:, 0]
