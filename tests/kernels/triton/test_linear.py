"""Matrix products with LayerNorm, bias, activation and residual, for one row and many."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpt2fast.errors import OptionError, UnsupportedError
from gpt2fast.kernels import reference
from gpt2fast.kernels.triton.activation import FORMULAS
from gpt2fast.kernels.triton.linear import LayerNorm, linear
from triton_cases import normal, within_bound


def plain_linear(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    norm: tuple[torch.Tensor, torch.Tensor] | None,
    activation: str,
    residual: torch.Tensor | None,
    dtype: torch.dtype,
) -> torch.Tensor:
    x, weight, bias = x.to(dtype), weight.to(dtype), bias.to(dtype)
    if norm is not None:
        x = reference.layer_norm(x, norm[0].to(dtype), norm[1].to(dtype), 1e-5)
    y = reference.activation(activation)(reference.linear(x, weight.T, bias))
    return y if residual is None else y + residual.to(dtype)


def run(
    device: torch.device,
    dtype: torch.dtype,
    shape: tuple[int, int, int],
    has_norm: bool,
    activation: str,
    has_residual: bool,
    seed: int,
) -> None:
    rows, inputs, outputs = shape
    generator = torch.Generator().manual_seed(seed)
    x = normal(generator, rows, inputs).to(dtype)
    weight = normal(generator, outputs, inputs, scale=inputs**-0.5).to(dtype)
    bias, residual = normal(generator, outputs).to(dtype), normal(generator, rows, outputs)
    norm = (1 + normal(generator, inputs, scale=0.1)).to(dtype), normal(generator, inputs).to(dtype)
    given_norm = norm if has_norm else None
    given_residual = residual.to(dtype) if has_residual else None
    got = linear(
        *(t.to(device) for t in (x, weight, bias)),
        norm=LayerNorm(*(t.to(device) for t in norm), 1e-5) if has_norm else None,
        activation=activation,
        residual=None if given_residual is None else given_residual.to(device),
    )
    both = [
        plain_linear(x, weight, bias, given_norm, activation, given_residual, precision)
        for precision in (dtype, torch.float64)
    ]
    within_bound(got, *both, 1e-5)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    rows=st.integers(1, 9) | st.sampled_from([17, 70]),
    inputs=st.integers(2, 200),
    outputs=st.integers(1, 70),
    has_norm=st.booleans(),
    activation=st.sampled_from(["linear", "gelu_new"]),
    has_residual=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_any_shape(
    device: torch.device,
    dtype: torch.dtype,
    rows: int,
    inputs: int,
    outputs: int,
    has_norm: bool,
    activation: str,
    has_residual: bool,
    seed: int,
) -> None:
    run(device, dtype, (rows, inputs, outputs), has_norm, activation, has_residual, seed)


@pytest.mark.parametrize("rows", [1, 5])
@pytest.mark.parametrize("activation", sorted(FORMULAS))
def test_activations(device: torch.device, dtype: torch.dtype, activation: str, rows: int) -> None:
    run(device, dtype, (rows, 64, 48), False, activation, False, 5)


@pytest.mark.parametrize("rows", [1, 3, 16, 80])
@pytest.mark.parametrize("width", [768, 1600])
def test_widths_of_models(device: torch.device, dtype: torch.dtype, width: int, rows: int) -> None:
    run(device, dtype, (rows, width, 100), True, "gelu_new", True, width)


def test_wrong_arguments_are_refused(device: torch.device) -> None:
    x, weight, bias = (torch.ones(s, device=device) for s in ((2, 8), (4, 8), (4,)))
    with pytest.raises(UnsupportedError, match='"mish" has no GPU kernel'):
        linear(x, weight, bias, activation="mish")
    with pytest.raises(OptionError, match="do not fit"):
        linear(x, weight.T.contiguous(), bias)
    assert linear(x[:0], weight, bias).shape == (0, 4)
