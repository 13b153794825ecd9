"""Inputs with correlations, as text has them, and least squares done the slow way."""

from __future__ import annotations

import torch
from torch import Tensor

from gpt2fast.compress.calibration.moments import SecondMoment


def rows_with_correlations(count: int, inputs: int, seed: int) -> Tensor:
    """(count, inputs) float64, of different sizes and not about zero."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(inputs, inputs, dtype=torch.float64, generator=generator)
    mix *= torch.logspace(0, -2, inputs, dtype=torch.float64)[:, None]  # few directions matter
    rows = torch.randn(count, inputs, dtype=torch.float64, generator=generator) @ mix
    return rows + torch.randn(inputs, dtype=torch.float64, generator=generator)


def moment_of(rows: Tensor) -> SecondMoment:
    """Of all rows."""
    moment = SecondMoment(rows.shape[1])
    moment.add(rows)
    return moment


def masked_least_squares(rows: Tensor, weight: Tensor, zero: Tensor) -> Tensor:
    """The weights (N, K) that are zero at ``zero`` (N, K) and come closest to the outputs of
    ``weight`` on ``rows`` (R, K): each output by itself, by QR."""
    best = torch.zeros_like(weight)
    for output, mask in enumerate(zero):
        fit = torch.linalg.lstsq(rows[:, ~mask], rows @ weight[output]).solution
        best[output, ~mask] = fit
    return best


def squared_error(rows: Tensor, weight: Tensor, new: Tensor) -> float:
    """Mean over rows of the squared difference of all outputs."""
    return float((rows @ (weight - new).T).square().sum(1).mean())
