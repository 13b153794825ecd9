"""The grid is the one that the loader rounds to."""

from __future__ import annotations

import pytest
import torch

from gpt2fast.compress.quantize.grid import grouped, round_to
from gpt2fast.compress.quantize.rtn import round_to_nearest
from gpt2fast.kernels import reference
from gpt2fast.quantization import INTEGER_RANGES, MatrixFormat


@pytest.mark.parametrize("group", [32, 64, 128])
@pytest.mark.parametrize("name", ["int8", "int4", "int3"])
def test_to_nearest_is_the_reference(name: str, group: int) -> None:
    weight = torch.randn(33, 200, generator=torch.Generator().manual_seed(group)) * 0.3
    weight[5, :64] = 0.0
    matrix = round_to_nearest(weight, MatrixFormat(name, group))
    integers, scales = reference.quantize_matrix(weight, name, group)
    assert torch.equal(matrix.integers.float(), integers)
    assert torch.equal(matrix.scales, scales)
    assert torch.equal(matrix.dequantize(), reference.store_matrix(weight, name, group))


@pytest.mark.parametrize("name", ["int8", "int4", "int3"])
def test_integers_stay_in_range_and_scales_of_either_sign_serve(name: str) -> None:
    form = MatrixFormat(name, 32)
    weight = torch.tensor([[-1.0, 0.5, 2.0, 0.0]])
    for scale in (0.01, -0.01, 0.0):
        matrix = round_to(weight, torch.tensor([[scale]]), form)
        low, high = INTEGER_RANGES[name]
        assert low <= int(matrix.integers.min()) <= int(matrix.integers.max()) <= high
        assert bool((matrix.dequantize() * weight >= 0).all())


def test_the_last_group_is_filled_up_with_zeros() -> None:
    parts = grouped(torch.ones(2, 70), MatrixFormat("int4", 32))
    assert parts.shape == (2, 3, 32)
    assert float(parts[:, 2].sum()) == 2 * 6
