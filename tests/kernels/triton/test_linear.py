"""Matrix products with LayerNorm, bias, activation and residual: one row and many, weights in
floating point and as integers."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gpt2fast.errors import OptionError, UnsupportedError
from gpt2fast.kernels import reference
from gpt2fast.kernels.triton.activation import FORMULAS
from gpt2fast.kernels.triton.linear import linear
from gpt2fast.kernels.triton.product import LayerNorm, Product
from gpt2fast.kernels.triton.quantized_weight import QuantizedWeight
from support.triton_cases import examples, is_thorough, normal, within_bound

FLOAT = ("", 0)
FORMATS = [
    FLOAT,
    ("int8", 32),
    ("int8", 64),
    ("int4", 32),
    ("int4", 64),
    ("int4", 128),
    ("fp8", 64),
]


def run(
    device: torch.device,
    dtype: torch.dtype,
    form: tuple[str, int],
    shape: tuple[int, int, int],
    has_norm: bool,
    activation: str,
    has_residual: bool,
    seed: int,
) -> None:
    rows, inputs, outputs = shape
    generator = torch.Generator().manual_seed(seed)
    x = (normal(generator, rows, inputs, scale=2.0) + 0.5).to(dtype)
    weight = normal(generator, outputs, inputs, scale=inputs**-0.5)
    bias, residual = (normal(generator, *s).to(dtype) for s in ((outputs,), (rows, outputs)))
    gain = (1 + normal(generator, inputs, scale=0.1)).to(dtype)
    shift = normal(generator, inputs).to(dtype)
    stored = weight.to(dtype)
    on_device: torch.Tensor | QuantizedWeight = stored.to(device)
    if form != FLOAT:
        on_device = QuantizedWeight.from_float(weight, *form).to(device)
        stored = reference.store_matrix(weight, *form)
        assert torch.equal(on_device.float().cpu(), stored)
    norm = LayerNorm(gain.to(device), shift.to(device), 1e-5) if has_norm else None
    got = linear(
        x.to(device),
        Product(on_device, bias.to(device), norm),
        activation=activation,
        residual=residual.to(device) if has_residual else None,
    )
    results = []
    for precision in (dtype, torch.float64):
        y = x.to(precision)
        if has_norm:
            y = reference.layer_norm(y, gain.to(precision), shift.to(precision), 1e-5)
        y = reference.linear(y, stored.T.to(precision), bias.to(precision))
        y = reference.activation(activation)(y)
        results.append(y + residual.to(precision) if has_residual else y)
    within_bound(got, *results, 1e-5)


@pytest.mark.parametrize("form", FORMATS, ids=str)
@examples(5)
@given(
    sizes=st.tuples(st.integers(1, 9) | st.sampled_from([17, 70, 130]), st.integers(1, 70))
    | st.tuples(st.integers(1, 17), st.just(600)),
    inputs=st.integers(2, 300),
    has_norm=st.booleans(),
    activation=st.sampled_from(["linear", "gelu_new"]),
    has_residual=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_any_shape(
    device: torch.device,
    dtype: torch.dtype,
    form: tuple[str, int],
    sizes: tuple[int, int],
    inputs: int,
    has_norm: bool,
    activation: str,
    has_residual: bool,
    seed: int,
) -> None:
    shape = (sizes[0], inputs, sizes[1])
    run(device, dtype, form, shape, has_norm, activation, has_residual, seed)


@pytest.mark.parametrize("rows", [1, 5])
@pytest.mark.parametrize("activation", sorted(FORMULAS))
def test_activations(device: torch.device, dtype: torch.dtype, activation: str, rows: int) -> None:
    run(device, dtype, FLOAT, (rows, 64, 48), False, activation, False, 5)


@pytest.mark.parametrize("rows", [1, 16])
@pytest.mark.parametrize("width", [768, 1600])
@pytest.mark.parametrize("form", [FLOAT, ("int8", 64), ("int4", 128)], ids=str)
def test_widths_of_models(
    device: torch.device, dtype: torch.dtype, form: tuple[str, int], width: int, rows: int
) -> None:
    if (width, dtype, device.type) == (1600, torch.float16, "cpu") and not is_thorough():
        pytest.skip("slow in the interpreter, which float32 passes at this width")
    run(device, dtype, form, (rows, width, 50), True, "gelu_new", True, width)


def test_a_row_has_the_same_bits_beside_others_of_its_kind(device: torch.device) -> None:
    generator = torch.Generator().manual_seed(3)
    x = normal(generator, 4, 100).to(device)
    product = Product(normal(generator, 40, 100).to(device))
    whole = linear(x, product)
    assert torch.equal(linear(x[2:3].contiguous(), product), whole[2:3])


def test_wrong_arguments_are_refused(device: torch.device) -> None:
    x, weight, bias = (torch.ones(s, device=device) for s in ((2, 8), (4, 8), (4,)))
    product = Product(weight, bias)
    with pytest.raises(UnsupportedError, match='"mish" has no GPU kernel'):
        linear(x, product, activation="mish")
    with pytest.raises(OptionError, match="does not fit weights of 4 outputs and 8 inputs"):
        linear(x[:, :4].contiguous(), product)
    with pytest.raises(OptionError, match=r"a bias \(2,\) does not fit 4 outputs"):
        Product(weight, bias[:2])
    with pytest.raises(OptionError, match=r"a LayerNorm \(4,\) does not fit 8 inputs"):
        Product(weight, bias, LayerNorm(bias, bias, 1e-5))
    assert linear(x[:0], product).shape == (0, 4)


@pytest.mark.parametrize("rows", [1, 5])
def test_an_overflow_in_layer_norm_is_not_hidden(device: torch.device, rows: int) -> None:
    generator = torch.Generator().manual_seed(0)
    x = normal(generator, rows, 64)
    x[0, 3] = 1e20
    norm = LayerNorm(torch.ones(64, device=device), torch.zeros(64, device=device), 1e-5)
    weight, bias = (normal(generator, *size).to(device) for size in ((16, 64), (16,)))
    got = linear(x.to(device), Product(weight, bias, norm))
    assert got[0].isnan().all()
    assert got[1:].isfinite().all()
