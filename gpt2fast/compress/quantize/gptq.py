"""GPTQ (Frantar et al. 2023, arXiv:2210.17323): the error of each column is made up for by those
that are still to be rounded.

An output's squared error over the calibration text is ``e H e^T`` with ``H = 2 X^T X``. When column
k of the weights is rounded, the best that the columns F behind it can do is to change by
``-(w_k - q_k) / [H_F^-1]_kk * [H_F^-1]_k,F``, all of which rows of one Cholesky factor of the
inverse hold. Shapes: N outputs, K inputs, G groups of inputs.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gpt2fast.compress.quantize.clip import clipped_scales
from gpt2fast.compress.quantize.grid import extreme_scales, inverse, spread
from gpt2fast.compress.state.model import QuantizedMatrix
from gpt2fast.quantization import INTEGER_RANGES, MatrixFormat

_BLOCK = 128  # columns between updates of all that remain
_MOST_DAMPING = 1.0
_DEAD = 1e-6  # of the mean diagonal


@dataclass(frozen=True)
class GptqOptions:
    """How GPTQ goes about it."""

    damping: float = 0.01  # added to the diagonal, relative to its mean
    act_order: bool = True  # columns of large inputs first, while there is most to make up with
    clip: bool = True  # scales that lose least, instead of those that reach the extreme
    propagate: bool = True  # False rounds to nearest: the control that must lose


def gptq(
    weight: Tensor,
    hessian: Tensor,
    form: MatrixFormat,
    options: GptqOptions | None = None,
    scales: Tensor | None = None,
) -> QuantizedMatrix:
    """Weights (N, K) on the grid of ``form``, for inputs of the ``hessian`` (K, K).

    Groups are of consecutive inputs whatever the order in which columns are visited, so scales
    (N, G) are fixed before the first one; they may be given. A column whose input never fired is
    rounded to nearest.
    """
    options = options or GptqOptions()
    damped = _damped(hessian.double(), options.damping)
    importance = damped.diagonal()
    if scales is None:
        importance = importance.float()
        scales = (
            clipped_scales(weight, form, importance)
            if options.clip
            else extreme_scales(weight, form)
        )
    order = torch.arange(weight.shape[-1], device=weight.device)
    if options.act_order:
        order = torch.argsort(damped.diagonal(), descending=True, stable=True)
    steps = spread(scales, form, weight.shape[-1])[:, order]
    factor = _inverse_factor(damped[order][:, order]) if options.propagate else None
    visited = _visit(weight[:, order].clone(), steps, factor, form)
    integers = torch.empty_like(visited)
    integers[:, order] = visited
    return QuantizedMatrix(integers.to(torch.int8), scales, form)


def _damped(hessian: Tensor, damping: float) -> Tensor:
    """What never fired has next to nothing on the diagonal, in units of what did: enough for a
    factor, and no say in scales or in the order of columns."""
    diagonal = hessian.diagonal()
    alive = diagonal > 0
    mean = float(diagonal[alive].mean()) if bool(alive.any()) else 1.0
    least = max(damping, _DEAD) * mean
    return hessian + torch.diag(torch.where(alive, damping * mean, least))


def _inverse_factor(hessian: Tensor) -> Tensor:
    """U (K, K), upper triangular, with ``U^T U = H^-1``, in float32.

    A hessian that is singular beyond rounding is damped further until it has a factor.
    """
    identity = torch.eye(len(hessian), dtype=hessian.dtype, device=hessian.device)
    mean = float(hessian.diagonal().mean())
    extra = 0.0
    while True:
        lower, failed = torch.linalg.cholesky_ex(hessian + identity * (extra * mean))
        if not int(failed):
            inverted = torch.cholesky_inverse(lower)
            upper, failed = torch.linalg.cholesky_ex(inverted, upper=True)
            if not int(failed):
                return Tensor.float(upper)
        if extra >= _MOST_DAMPING:
            raise ArithmeticError("the hessian has no Cholesky factor")
        extra = max(10 * extra, 1e-6)


def _visit(weight: Tensor, steps: Tensor, factor: Tensor | None, form: MatrixFormat) -> Tensor:
    """Round columns from left to right; ``weight`` (N, K) is spent. Returns integers (N, K)."""
    inverses = inverse(steps)
    if factor is None:
        return torch.round(weight * inverses).clamp(*INTEGER_RANGES[form.name])
    # Columns are visited: each is one run of memory.
    columns, inverses, steps = (x.T.contiguous() for x in (weight, inverses, steps))
    integers, count = torch.empty_like(columns), len(columns)
    for start in range(0, count, _BLOCK):
        end = min(start + _BLOCK, count)
        errors = torch.empty_like(columns[start:end])
        for k in range(start, end):
            integers[k] = (columns[k] * inverses[k]).round_().clamp_(*INTEGER_RANGES[form.name])
            error = errors[k - start]
            torch.sub(columns[k], integers[k] * steps[k], out=error)
            error /= factor[k, k]
            columns[k + 1 : end].addr_(factor[k, k + 1 : end], error, alpha=-1)
        columns[end:].addmm_(factor[start:end, end:].T, errors, alpha=-1)
    return integers.T
