"""Small weights as floats."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gpt2fast.kernels import reference
from gpt2fast.kernels.triton.dequantize import dequantize
from gpt2fast.kernels.triton.quantized_weight import QuantizedWeight
from support.triton_cases import examples, normal


@pytest.mark.parametrize("form", [("int8", 64), ("int4", 32), ("int4", 128), ("fp8", 64)], ids=str)
@examples(5)
@given(inputs=st.integers(1, 1300), outputs=st.integers(1, 20), seed=st.integers(0, 2**32))
def test_the_values_that_are_stored(
    device: torch.device,
    dtype: torch.dtype,
    form: tuple[str, int],
    inputs: int,
    outputs: int,
    seed: int,
) -> None:
    weight = normal(torch.Generator().manual_seed(seed), outputs, inputs)
    got = dequantize(QuantizedWeight.from_float(weight, *form).to(device), dtype)
    assert torch.equal(got.cpu(), reference.store_matrix(weight, *form).to(dtype))
