"""LayerNorm with the residual addition before it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gpt2fast.kernels import reference
from gpt2fast.kernels.triton.layer_norm import layer_norm
from support.triton_cases import examples, normal, within_bound


def run(
    device: torch.device, dtype: torch.dtype, rows: int, width: int, residual: bool, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    x, other = (normal(generator, rows, width, scale=3.0).to(dtype) for _ in range(2))
    x += 5.0  # a mean that is large beside the deviations
    weight, bias = (normal(generator, width).to(dtype) for _ in range(2))
    on_device = [t.to(device) for t in (x, weight, bias)]
    total, got = layer_norm(*on_device, 1e-5, other.to(device) if residual else None)
    want_total = x + other if residual else x
    assert torch.equal(total.cpu(), want_total)
    exact = reference.layer_norm(want_total.double(), weight.double(), bias.double(), 1e-5)
    within_bound(got, reference.layer_norm(want_total, weight, bias, 1e-5), exact, 2e-6)


@examples(15)
@given(
    rows=st.integers(1, 40),
    width=st.integers(2, 300),
    residual=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_any_shape(
    device: torch.device, dtype: torch.dtype, rows: int, width: int, residual: bool, seed: int
) -> None:
    run(device, dtype, rows, width, residual, seed)


@pytest.mark.parametrize("width", [768, 1024, 1280, 1600, 2048, 5120])
def test_widths_of_models(device: torch.device, dtype: torch.dtype, width: int) -> None:
    run(device, dtype, 3, width, True, width)


def test_no_rows(device: torch.device) -> None:
    x, weight = torch.empty(0, 8, device=device), torch.ones(8, device=device)
    total, out = layer_norm(x, weight, weight, 1e-5)
    assert total.shape == out.shape == (0, 8)


def test_an_overflow_is_not_hidden(device: torch.device) -> None:
    """Squares beyond float32 make NaN, not the bias, and the row beside is as it was."""
    x = normal(torch.Generator().manual_seed(0), 2, 64)
    want = reference.layer_norm(x, torch.ones(64), torch.zeros(64), 1e-5)
    x[1, 3] = 1e20
    gain, bias = torch.ones(64, device=device), torch.zeros(64, device=device)
    _, got = layer_norm(x.to(device), gain, bias, 1e-5)
    assert got[1].isnan().all()
    torch.testing.assert_close(got[0].cpu(), want[0])
