"""Matrix products over integer weights."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpt2fast.errors import OptionError, UnsupportedError
from gpt2fast.kernels import reference
from gpt2fast.kernels.triton.linear import LayerNorm
from gpt2fast.kernels.triton.quantized_linear import QuantizedWeight, quantized_linear
from triton_cases import normal, within_bound

FORMATS = [(8, 32), (8, 64), (4, 32), (4, 64), (4, 128)]


def on(device: torch.device, weight: QuantizedWeight) -> QuantizedWeight:
    parts = weight.integers.to(device), weight.scales.to(device)
    return QuantizedWeight(*parts, weight.inputs, weight.bits, weight.group)


def run(
    device: torch.device,
    dtype: torch.dtype,
    form: tuple[int, int],
    shape: tuple[int, int, int],
    has_norm: bool,
    has_residual: bool,
    seed: int,
) -> None:
    rows, inputs, outputs = shape
    generator = torch.Generator().manual_seed(seed)
    x = normal(generator, rows, inputs).to(dtype)
    weight = normal(generator, outputs, inputs, scale=inputs**-0.5)
    bias, residual = (normal(generator, *s).to(dtype) for s in ((outputs,), (rows, outputs)))
    gain, shift = (1 + normal(generator, inputs, scale=0.1)).to(dtype), bias.new_zeros(inputs) + 0.5
    got = quantized_linear(
        x.to(device),
        on(device, QuantizedWeight.from_float(weight, *form)),
        bias.to(device),
        norm=LayerNorm(gain.to(device), shift.to(device), 1e-5) if has_norm else None,
        activation="gelu_new",
        residual=residual.to(device) if has_residual else None,
    )
    stored = reference.store_matrix(weight, f"int{form[0]}", form[1])
    results = []
    for precision in (dtype, torch.float64):
        y = x.to(precision)
        if has_norm:
            y = reference.layer_norm(y, gain.to(precision), shift.to(precision), 1e-5)
        y = reference.linear(y, stored.T.to(precision), bias.to(precision))
        y = reference.activation("gelu_new")(y)
        results.append(y + residual.to(precision) if has_residual else y)
    within_bound(got, *results, 1e-5)


@pytest.mark.parametrize("form", FORMATS, ids=str)
@settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    rows=st.integers(1, 9) | st.sampled_from([17, 70]),
    inputs=st.integers(2, 300),
    outputs=st.integers(1, 70),
    has_norm=st.booleans(),
    has_residual=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_any_shape(
    device: torch.device,
    dtype: torch.dtype,
    form: tuple[int, int],
    rows: int,
    inputs: int,
    outputs: int,
    has_norm: bool,
    has_residual: bool,
    seed: int,
) -> None:
    run(device, dtype, form, (rows, inputs, outputs), has_norm, has_residual, seed)


@pytest.mark.parametrize("rows", [1, 16])
@pytest.mark.parametrize("width", [768, 1600])
@pytest.mark.parametrize("form", [(8, 64), (4, 128)], ids=str)
def test_widths_of_models(
    device: torch.device, dtype: torch.dtype, form: tuple[int, int], width: int, rows: int
) -> None:
    run(device, dtype, form, (rows, width, 50), True, True, width)


def test_wrong_arguments_are_refused(device: torch.device) -> None:
    weight = on(device, QuantizedWeight.from_float(torch.ones(4, 40), 4, 32))
    x, bias = torch.ones(2, 40, device=device), torch.ones(4, device=device)
    with pytest.raises(UnsupportedError, match='"mish" has no GPU kernel'):
        quantized_linear(x, weight, bias, activation="mish")
    with pytest.raises(OptionError, match="4 outputs and 40 inputs"):
        quantized_linear(x[:, :8].contiguous(), weight, bias)
    assert quantized_linear(x[:0], weight, bias).shape == (0, 4)
