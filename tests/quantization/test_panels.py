"""The panels that C++ packs, decoded in numpy: exactly round-to-nearest as numpy does it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from gpt2fast.quantization import GROUP_SIZES, INTEGER_FORMATS, INTEGER_RANGES, MatrixFormat
from gpt2fast.quantization.matrix import QuantizedMatrix
from gpt2fast.quantization.panel_layout import PanelLayout
from gpt2fast.quantization.panels import decode, encode, has_finite_scales
from support.packed_reference import Floats, from_bfloat16, pack, quantize, to_bfloat16

FORMATS = [(name, group) for name in INTEGER_FORMATS for group in GROUP_SIZES]
SHAPES = [(16, 64), (1, 1), (5, 33), (17, 100), (33, 129), (48, 256), (100, 7)]


def check(matrix: Floats, name: str, group: int, conv1d: bool) -> None:
    outputs, inputs = matrix.shape
    layout = PanelLayout(MatrixFormat(name, group), inputs, outputs)
    data = pack(matrix, name, group, conv1d)
    assert data.shape == layout.shape
    integers, scales = quantize(matrix, name, group)
    decoded = decode(data, layout)
    np.testing.assert_array_equal(decoded.scales, scales)
    np.testing.assert_array_equal(decoded.integers, integers)
    each = np.repeat(scales, group, axis=1)[:, :inputs]
    np.testing.assert_array_equal(decoded.dequantize(), integers * each)
    # To nearest: half a step. The end of int4 or int3 that has one step less may be clipped by a
    # whole one, and its step is a bfloat16 that may be a little too small for the other end.
    bound = 0.5 if name == "int8" else 1.0 + 8 * 2**-8
    assert (np.abs(integers * each - matrix) <= np.abs(each) * (bound + 1e-3) + 1e-30).all()


@pytest.mark.parametrize("conv1d", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("name", "group"), FORMATS)
def test_packing_rounds_to_nearest(
    name: str, group: int, shape: tuple[int, int], conv1d: bool
) -> None:
    rng = np.random.default_rng(sum(shape))
    check(rng.standard_normal(shape, np.float32), name, group, conv1d)


def extremes() -> dict[str, Floats]:
    noise = np.random.default_rng(1).standard_normal((19, 150), np.float32)
    one_sided = np.abs(noise)
    mixed = noise.copy()
    mixed[::3, :70] = 0
    mixed[1::3, 40:100] = 1e-38
    mixed[2::3, 100:] = 3e38 / 2
    return {
        "zeros": np.zeros_like(noise),
        "constant": np.full_like(noise, 0.37),
        "negative": -one_sided,
        "positive": one_sided,
        "1e-30": noise * np.float32(1e-30),
        "below the smallest step": noise * np.float32(1e-36),
        "3e38 / 2": np.clip(noise, -1, 1) * np.float32(3e38 / 2),
        "both ends": np.tile(np.array([1, -1], np.float32), (19, 75)),
        "mixed": mixed,
    }


@pytest.mark.parametrize("case", extremes())
@pytest.mark.parametrize(("name", "group"), FORMATS)
def test_extreme_values(name: str, group: int, case: str) -> None:
    check(extremes()[case], name, group, conv1d=False)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(FORMATS),
    st.integers(1, 40),
    st.integers(1, 140),
    st.booleans(),
    st.integers(0, 2**32 - 1),
)
def test_any_shape(
    form: tuple[str, int], outputs: int, inputs: int, conv1d: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    # Magnitudes from 1e-9 to 1e9 side by side, and zeros.
    matrix = rng.standard_normal((outputs, inputs)) * 10.0 ** rng.integers(-9, 9, (outputs, 1))
    matrix[rng.random((outputs, inputs)) < 0.2] = 0
    check(matrix.astype(np.float32), *form, conv1d=conv1d)


def numbers(layout: PanelLayout, seed: int) -> tuple[NDArray[np.int8], Floats]:
    """Any integers of the format, its ends among them, and any scales."""
    rng = np.random.default_rng(seed)
    least, most = INTEGER_RANGES[layout.format.name]
    shape = layout.outputs, layout.inputs
    integers = rng.integers(least, most + 1, shape, np.int8)
    integers.reshape(-1)[: rng.integers(0, 3)] = rng.choice([least, most])
    scales = rng.normal(size=(layout.outputs, layout.groups)) * 10.0 ** rng.integers(-30, 30)
    return integers, from_bfloat16(to_bfloat16(scales.astype(np.float32)))


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(FORMATS), st.integers(1, 40), st.integers(1, 290), st.integers(0, 2**32 - 1))
def test_encode_is_the_inverse(form: tuple[str, int], outputs: int, inputs: int, seed: int) -> None:
    layout = PanelLayout(MatrixFormat(*form), inputs, outputs)
    integers, scales = numbers(layout, seed)
    data = encode(QuantizedMatrix(integers, scales, layout.format))
    assert data.dtype == np.uint8
    assert data.shape == layout.shape
    assert has_finite_scales(data, layout)
    decoded = decode(data, layout)
    assert decoded.format == layout.format
    assert decoded.integers.tobytes() == integers.tobytes()
    assert decoded.scales.tobytes() == scales.tobytes()
    np.testing.assert_array_equal(
        decoded.dequantize(), integers * np.repeat(scales, form[1], 1)[:, :inputs]
    )


def test_the_bits_of_int3() -> None:
    """The table of csrc/kernels/panels.h."""
    layout = PanelLayout(MatrixFormat("int3", 32), 32, 16)
    integers = np.zeros((16, 32), np.int8)  # 4 as they are stored
    integers[5, 4 * 6 + 1] = 3  # 7: input 1 of the seventh four
    integers[5, 4 * 7 + 1] = -2  # 2
    integers[5, 4 * 3 + 1] = -3  # 1
    matrix = QuantizedMatrix(integers, np.ones((16, 1), np.float32), layout.format)
    data = encode(matrix)[0, 64:]
    want = np.repeat(np.array([0o044, 0o044, 0o344], np.uint8), 64)
    want[4 * 5 + 1] |= 3 << 6
    want[64 + 4 * 5 + 1] = 2 << 6 | 1 << 3 | 4
    want[128 + 4 * 5 + 1] = 1 << 6 | 0o044
    np.testing.assert_array_equal(data, want)


@pytest.mark.parametrize("form", FORMATS)
def test_what_encode_refuses(form: tuple[str, int]) -> None:
    layout = PanelLayout(MatrixFormat(*form), 100, 20)
    integers, scales = numbers(layout, 1)
    least, most = INTEGER_RANGES[form[0]]
    for value in (least - 1, most + 1):
        wrong = integers.astype(np.int16)
        wrong[3, 4] = value
        with pytest.raises(ValueError, match=f"integers must be {least} .. {most}"):
            encode(QuantizedMatrix(wrong, scales, layout.format))
    for bad in (np.nan, np.inf, 1 + 2**-20):
        with pytest.raises(ValueError, match="finite bfloat16"):
            encode(QuantizedMatrix(integers, np.full_like(scales, bad), layout.format))
    with pytest.raises(ValueError, match=r"integers \(19, 100\)"):
        encode(QuantizedMatrix(integers[:19], scales, layout.format))
