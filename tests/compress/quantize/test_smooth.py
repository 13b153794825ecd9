"""Factors and shifts that move between a matrix and what makes its inputs: the function is kept,
outliers are undone."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from gpt2fast.compress.calibration.calibration import Calibration
from gpt2fast.compress.calibration.capture import HiddenStates
from gpt2fast.compress.quantize.inputs import collect
from gpt2fast.compress.quantize.smooth import (
    NORMS,
    VALUES,
    balance,
    condition,
    move,
    parts_of,
    scale_channels,
    shift_channels,
    smoothing_factors,
)
from gpt2fast.compress.state.model import Model
from gpt2fast.kernels import reference
from gpt2fast.model.gpt2 import Block
from gpt2fast.quantization import MatrixFormat

INT8 = MatrixFormat("int8", 32)


def smooth_by(states: HiddenStates, part: str, alpha: float) -> None:
    weight = states.block.get_submodule(part).weight.T
    largest = collect(states, (part,))[part].largest
    scale_channels(states.block, part, smoothing_factors(weight, largest, alpha))


def rounding_error(x: torch.Tensor, weight: torch.Tensor, to_compare: torch.Tensor) -> float:
    """Of the outputs, both sides rounded to nearest."""
    stored = reference.store_matrix(weight, INT8.name, INT8.group_size)
    got = reference.round_rows(x, INT8.name, INT8.group_size) @ stored.T
    return float((got - to_compare).square().mean())


def inject_outliers(model: Model, size: float = 50.0, channels: int = 4) -> None:
    """Some channels of each LayerNorm but the last times ``size``, rows behind it divided by it."""
    generator = torch.Generator().manual_seed(5)
    width = model.config.n_embd
    for block in model.network.h:
        assert isinstance(block, Block)
        for part in NORMS:
            factors = torch.ones(width)
            factors[torch.randperm(width, generator=generator)[:channels]] = 1.0 / size
            move(*parts_of(block, part), factors)


@pytest.mark.parametrize("method", ["balance", "0", "0.5", "1"])
def test_the_function_is_kept(
    method: str, random_model: Callable[..., Model], random_calibration: Callable[..., Calibration]
) -> None:
    model, calibration = random_model(), random_calibration(101)
    inject_outliers(model)
    tokens = torch.from_numpy(calibration.windows)
    before = model.network(tokens)
    states = HiddenStates(model.network, calibration)
    for part in NORMS:
        old = model.weight(f"h.0.{part}.weight").clone()
        if method == "balance":
            balance(states.block, part)
        else:
            smooth_by(states, part, float(method))
        assert not torch.allclose(old, model.weight(f"h.0.{part}.weight"))
    torch.testing.assert_close(model.network(tokens), before, rtol=1e-5, atol=1e-5)


def test_outliers_are_undone(
    random_model: Callable[..., Model], random_calibration: Callable[..., Calibration]
) -> None:
    """Activations in 8 bits and weights in 8 bits, both to nearest: what an outlier spoils in the
    group of its channel is repaired."""
    calibration = random_calibration(101)

    def loss(model: Model, smoothed: bool) -> float:
        states = HiddenStates(model.network, calibration)
        x = states.block.ln_1(states.states)
        exact = states.block.attn.c_attn(x)
        if smoothed:
            smooth_by(states, "attn.c_attn", 0.5)
            x = states.block.ln_1(states.states)
        weight = reference.store_matrix(model.weight("h.0.attn.c_attn.weight"), "int8", 32)
        rounded = reference.round_rows(x, "int8", 32) @ weight.T + states.block.attn.c_attn.bias
        return float((rounded - exact).square().mean())

    clean, spoiled, repaired = random_model(), random_model(), random_model()
    inject_outliers(spoiled)
    inject_outliers(repaired)
    usual = loss(clean, smoothed=False)
    assert loss(spoiled, smoothed=False) > 20 * usual
    assert loss(repaired, smoothed=True) < 1.5 * usual


def test_injected_outliers_do_not_matter_afterwards(
    random_model: Callable[..., Model], random_calibration: Callable[..., Calibration]
) -> None:
    """Smoothed factors are products of powers: any that were moved before cancel out."""
    calibration, results = random_calibration(101), []
    for spoil in (False, True):
        model = random_model()
        if spoil:
            inject_outliers(model)
        states = HiddenStates(model.network, calibration)
        smooth_by(states, "mlp.c_fc", 0.5)
        results.append(model.weight("h.0.mlp.c_fc.weight"))
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("part", [*NORMS, VALUES])
def test_shifts_and_factors_keep_the_function(
    part: str, random_model: Callable[..., Model], random_calibration: Callable[..., Calibration]
) -> None:
    model, calibration = random_model(), random_calibration(101)
    tokens = torch.from_numpy(calibration.windows)
    before = model.network(tokens)
    block = model.network.h[0]
    assert isinstance(block, Block)
    generator = torch.Generator().manual_seed(7)
    width = block.get_submodule(part).weight.shape[0]
    shift_channels(block, part, torch.randn(width, generator=generator))
    scale_channels(block, part, torch.rand(width, generator=generator) + 0.5)
    torch.testing.assert_close(model.network(tokens), before, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("spoilt", ["nothing", "far from zero", "outlier", "one-sided outlier"])
def test_conditioning_makes_rounding_better_and_never_worse(spoilt: str) -> None:
    generator = torch.Generator().manual_seed(11)
    rows = torch.randn(256, 64, generator=generator)
    weight = torch.randn(48, 64, generator=generator)
    if spoilt == "far from zero":
        rows[:, :8] += 20.0
    elif spoilt == "outlier":
        rows[:, :2] *= 50.0
        weight[:, :2] /= 50.0
    elif spoilt == "one-sided outlier":
        rows[:, 3] = rows[:, 3].abs() * 40.0
    shift, factors = condition(weight, rows, INT8)
    plain = rounding_error(rows, weight, rows @ weight.T)
    shifted = rows - shift
    better = rounding_error(shifted / factors, weight * factors, shifted @ weight.T)
    assert better <= plain
    assert better < plain * (1.01 if spoilt == "nothing" else 0.4)
