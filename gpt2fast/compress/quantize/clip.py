"""Clipping: the scale of each group that loses least, instead of the one that reaches its extreme.

A group with one large weight is better off when that one is clipped and all others have a finer
step (the clipping of AWQ, Lin et al. 2024, arXiv:2306.00978).
Shapes: N outputs, K inputs, G groups of inputs.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from gpt2fast.compress.quantize.grid import extreme_scales, grouped, inverse, round_to
from gpt2fast.compress.state.model import QuantizedMatrix
from gpt2fast.quantization import INTEGER_RANGES, MatrixFormat

# Steps to try, relative to the one that reaches the extreme. Above 1 nothing is clipped on either
# side of an uneven grid.
_RELATIVE_STEPS = {
    "int8": torch.linspace(0.80, 1.0, 11),
    "int4": torch.linspace(0.50, 1.20, 29),
    "int3": torch.linspace(0.40, 1.35, 39),
}
_REFINEMENTS = 2  # least-squares steps after the search
_Measure = Callable[[Tensor], Tensor]
_CHUNK = 1 << 17  # weights at a time, so that a candidate is tried in the CPU's cache


def round_clipped(
    weight: Tensor, form: MatrixFormat, importance: Tensor | None = None
) -> QuantizedMatrix:
    """Weights (N, K) to the nearest integers under the scales of ``clipped_scales``."""
    return round_to(weight, clipped_scales(weight, form, importance), form)


def clipped_scales(weight: Tensor, form: MatrixFormat, importance: Tensor | None = None) -> Tensor:
    """Scales (N, G) of weights (N, K) that minimise each group's squared error of rounding.

    ``importance``: None, the inputs count alike; (K,), with these weights, such as their mean
    squares; (K, K), the error is that of the group's outputs, ``e H e^T`` with its own block of
    this hessian, which knows that errors of inputs that go together add up or cancel.

    The best of a fixed list of steps in both directions, among them those of rounding to nearest,
    refined by least squares: never worse than rounding to nearest.
    """
    measure = _measure(weight, form, importance)
    rows = max(1, _CHUNK // weight.shape[-1])
    starts = torch.split(extreme_scales(weight, form), rows)
    parts = zip(torch.split(weight, rows), starts, strict=True)
    return torch.cat([_search(grouped(part, form), start, measure, form) for part, start in parts])


def _measure(weight: Tensor, form: MatrixFormat, importance: Tensor | None) -> _Measure:
    """What maps errors (N, G, group) to themselves times the hessian of their group."""
    if importance is None:
        importance = torch.ones(weight.shape[-1], device=weight.device)
    if importance.dim() == 1:
        factors = grouped(importance.float(), form)  # (G, group)
        return lambda x: x * factors
    along = grouped(grouped(importance.float(), form).movedim(0, -1), form)  # (G, group, G, group)
    blocks = torch.diagonal(along, dim1=0, dim2=2).permute(2, 0, 1).contiguous()
    return lambda x: torch.bmm(x.transpose(0, 1), blocks).transpose(0, 1)


def _search(weight: Tensor, start: Tensor, measure: _Measure, form: MatrixFormat) -> Tensor:
    """weight (N, G, group), start (N, G) -> the best scales (N, G)."""
    best, least = start, _error(weight, start, measure, form)
    magnitude = weight.abs().amax(-1) / -INTEGER_RANGES[form.name][0]
    signs = (1.0,) if form.name == "int8" else (1.0, -1.0)
    for relative in _RELATIVE_STEPS[form.name].tolist():
        for sign in signs:
            scale = (magnitude * (sign * relative)).bfloat16().float()
            best, least = _better(weight, scale, measure, form, best, least)
    for _ in range(_REFINEMENTS):
        scale = _least_squares(weight, best, measure, form)
        best, least = _better(weight, scale, measure, form, best, least)
    return best


def _better(
    weight: Tensor,
    scale: Tensor,
    measure: _Measure,
    form: MatrixFormat,
    best: Tensor,
    least: Tensor,
) -> tuple[Tensor, Tensor]:
    error = _error(weight, scale, measure, form)
    better = error < least
    return torch.where(better, scale, best), torch.where(better, error, least)


def _integers(weight: Tensor, scale: Tensor, form: MatrixFormat) -> Tensor:
    return (weight * inverse(scale)[..., None]).round_().clamp_(*INTEGER_RANGES[form.name])


def _error(weight: Tensor, scale: Tensor, measure: _Measure, form: MatrixFormat) -> Tensor:
    error = _integers(weight, scale, form).mul_(scale[..., None]).sub_(weight)
    return (measure(error) * error).sum(-1)


def _least_squares(weight: Tensor, scale: Tensor, measure: _Measure, form: MatrixFormat) -> Tensor:
    """The scale that fits the integers of ``scale`` best."""
    integers = _integers(weight, scale, form)
    weighted = measure(integers)
    squares = (weighted * integers).sum(-1)
    fitted = (weighted * weight).sum(-1) / squares.clamp(min=1e-30)
    return torch.where(squares > 0, fitted, scale).bfloat16().float()
