"""Clipping: the scale of each group that loses least, instead of the one that reaches its extreme.

A group with one large weight is better off when that one is clipped and all others have a finer
step. Shapes: N outputs, K inputs, G groups of inputs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gpt2fast.compress.quantize.grid import extreme_scales, grouped, inverse, round_to
from gpt2fast.compress.state import QuantizedMatrix
from gpt2fast.quantization import INTEGER_RANGES, MatrixFormat

# Steps to try, relative to the one that reaches the extreme. Above 1 nothing is clipped on either
# side of an uneven grid.
_RELATIVE_STEPS = {
    "int8": torch.linspace(0.80, 1.0, 11),
    "int4": torch.linspace(0.50, 1.20, 29),
    "int3": torch.linspace(0.40, 1.35, 39),
}
_REFINEMENTS = 2  # least-squares steps after the search
_CHUNK = 1 << 17  # weights at a time, so that a candidate is tried in the CPU's cache


def round_clipped(
    weight: Tensor, form: MatrixFormat, importance: Tensor | None = None
) -> QuantizedMatrix:
    """Weights (N, K) to the nearest integers under the scales of ``clipped_scales``."""
    return round_to(weight, clipped_scales(weight, form, importance), form)


def clipped_scales(weight: Tensor, form: MatrixFormat, importance: Tensor | None = None) -> Tensor:
    """Scales (N, G) of weights (N, K) that minimise each group's squared error of rounding,
    weighted by the ``importance`` (K,) of the inputs (their mean square, say; all equal if None).

    The best of a fixed list of steps in both directions, among them those of rounding to nearest,
    refined by least squares: never worse than rounding to nearest.
    """
    equal = torch.ones(weight.shape[-1], device=weight.device)
    factors = grouped(equal if importance is None else importance.float(), form)  # (G, group)
    rows = max(1, _CHUNK // weight.shape[-1])
    parts = zip(
        torch.split(weight, rows), torch.split(extreme_scales(weight, form), rows), strict=True
    )
    return torch.cat([_search(grouped(part, form), start, factors, form) for part, start in parts])


def _search(weight: Tensor, start: Tensor, factors: Tensor, form: MatrixFormat) -> Tensor:
    """weight (N, G, group), start (N, G), factors (G, group) -> the best scales (N, G)."""
    best, least = start, _error(weight, start, factors, form)
    magnitude = weight.abs().amax(-1) / -INTEGER_RANGES[form.name][0]
    signs = (1.0,) if form.name == "int8" else (1.0, -1.0)
    for relative in _RELATIVE_STEPS[form.name].tolist():
        for sign in signs:
            scale = (magnitude * (sign * relative)).bfloat16().float()
            best, least = _better(weight, scale, factors, form, best, least)
    for _ in range(_REFINEMENTS):
        scale = _least_squares(weight, best, factors, form)
        best, least = _better(weight, scale, factors, form, best, least)
    return best


def _better(
    weight: Tensor, scale: Tensor, factors: Tensor, form: MatrixFormat, best: Tensor, least: Tensor
) -> tuple[Tensor, Tensor]:
    error = _error(weight, scale, factors, form)
    better = error < least
    return torch.where(better, scale, best), torch.where(better, error, least)


def _integers(weight: Tensor, scale: Tensor, form: MatrixFormat) -> Tensor:
    return (weight * inverse(scale)[..., None]).round_().clamp_(*INTEGER_RANGES[form.name])


def _error(weight: Tensor, scale: Tensor, factors: Tensor, form: MatrixFormat) -> Tensor:
    rounded = _integers(weight, scale, form).mul_(scale[..., None])
    return rounded.sub_(weight).square_().mul_(factors).sum(-1)


def _least_squares(weight: Tensor, scale: Tensor, factors: Tensor, form: MatrixFormat) -> Tensor:
    """The scale that fits the integers of ``scale`` best."""
    integers = _integers(weight, scale, form)
    weighted = integers * factors
    squares = (weighted * integers).sum(-1)
    fitted = (weighted * weight).sum(-1) / squares.clamp(min=1e-30)
    return torch.where(squares > 0, fitted, scale).bfloat16().float()
