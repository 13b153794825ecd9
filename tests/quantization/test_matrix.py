"""A matrix of integers is the same in numpy and in torch."""

from __future__ import annotations

import numpy as np
import pytest

from gpt2fast.quantization import MatrixFormat
from gpt2fast.quantization.matrix import QuantizedMatrix


@pytest.mark.parametrize("inputs", [1, 64, 100])
def test_values_in_numpy_and_in_torch(inputs: int) -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    integers = rng.integers(-8, 8, (5, inputs), np.int8)
    scales = rng.normal(size=(5, -(-inputs // 32))).astype(np.float32)
    form = MatrixFormat("int4", 32)
    values = QuantizedMatrix(integers, scales, form).dequantize()
    np.testing.assert_array_equal(values, integers * np.repeat(scales, 32, 1)[:, :inputs])
    assert values.dtype == np.float32
    assert values.flags.c_contiguous
    tensors = QuantizedMatrix(torch.from_numpy(integers), torch.from_numpy(scales), form)
    found = tensors.dequantize()
    assert found.is_contiguous()
    np.testing.assert_array_equal(found.numpy(), values)
