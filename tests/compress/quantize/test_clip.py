"""Clipped scales lose least."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from gpt2fast.compress.quantize.clip import clipped_scales, round_clipped
from gpt2fast.compress.quantize.grid import round_to
from gpt2fast.compress.quantize.rtn import round_to_nearest
from gpt2fast.quantization import MatrixFormat

FORMS = [MatrixFormat(name, 32) for name in ("int8", "int4", "int3")]


def heavy_tailed(outputs: int, inputs: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(outputs, inputs, generator=generator)
    return weight * (1.0 + 3.0 * (torch.rand(outputs, inputs, generator=generator) > 0.97))


def error(weight: Tensor, values: Tensor, importance: Tensor, form: MatrixFormat) -> Tensor:
    """Of each group: (N, G)."""
    squares = (weight - values).square() * importance
    return torch.stack([part.sum(-1) for part in squares.split(form.group_size, -1)], -1)


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
@pytest.mark.parametrize("weighted", [False, True])
def test_no_group_is_worse_than_to_nearest(form: MatrixFormat, weighted: bool) -> None:
    weight = heavy_tailed(20, 90)
    importance = torch.rand(90, generator=torch.Generator().manual_seed(2)).square()
    factors = importance if weighted else torch.ones(90)
    clipped = round_clipped(weight, form, importance if weighted else None).dequantize()
    nearest = round_to_nearest(weight, form).dequantize()
    ours, theirs = (error(weight, x, factors, form) for x in (clipped, nearest))
    assert bool((ours <= theirs * (1 + 1e-5)).all())
    if form.name != "int8":
        assert float(ours.sum()) < 0.95 * float(theirs.sum())


def group_losses(weight: Tensor, values: Tensor, hessian: Tensor, form: MatrixFormat) -> Tensor:
    """``e H e^T`` of each group with its own block of ``hessian``: (N, G)."""
    size, found = form.group_size, []
    for start in range(0, weight.shape[1], size):
        part = slice(start, min(start + size, weight.shape[1]))
        error = (values - weight)[:, part]
        found.append(((error @ hessian[part, part]) * error).sum(-1))
    return torch.stack(found, -1)


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
def test_a_hessian_makes_it_the_error_of_the_outputs(form: MatrixFormat) -> None:
    generator = torch.Generator().manual_seed(4)
    x = torch.randn(300, 90, generator=generator) + 1.5  # all go together
    weight, hessian = heavy_tailed(30, 90), x.T @ x / 300
    knowing, diagonal, nearest = (
        group_losses(weight, matrix.dequantize(), hessian, form)
        for matrix in (
            round_clipped(weight, form, hessian),
            round_clipped(weight, form, hessian.diagonal()),
            round_to_nearest(weight, form),
        )
    )
    assert bool((knowing <= nearest * (1 + 1e-5)).all())
    assert float(knowing.sum()) < 0.7 * float(diagonal.sum())
    independent = hessian.diagonal().diag()
    same = (
        clipped_scales(weight, form, independent),
        clipped_scales(weight, form, x.square().mean(0)),
    )
    assert float((same[0] != same[1]).float().mean()) < 0.02


@pytest.mark.parametrize("form", FORMS[1:], ids=lambda form: form.name)
def test_near_the_best_of_all_scales(form: MatrixFormat) -> None:
    weight, ones = heavy_tailed(40, 32, seed=1), torch.ones(32)
    found = error(weight, round_clipped(weight, form).dequantize(), ones, form)
    best = torch.full_like(found, torch.inf)
    for step in torch.linspace(0.001, float(weight.abs().max()), 3000).bfloat16().float().unique():
        for sign in (-1.0, 1.0):
            values = round_to(weight, torch.full((40, 1), sign * float(step)), form).dequantize()
            best = torch.minimum(best, error(weight, values, ones, form))
    assert bool((found <= 1.15 * best).all())
    assert float(found.sum()) <= 1.03 * float(best.sum())


def test_a_weight_on_the_other_side_turns_the_scale() -> None:
    """The grid reaches a step further below zero: the sign of the scale chooses where."""
    form = MatrixFormat("int3", 32)
    above = torch.linspace(-3.0, 4.0, 32)[None]
    assert float(clipped_scales(above, form)) < 0 < float(clipped_scales(-above, form))


def test_zeros_stay_zeros() -> None:
    matrix = round_clipped(torch.zeros(3, 40), MatrixFormat("int4", 32))
    assert torch.equal(matrix.dequantize(), torch.zeros(3, 40))
