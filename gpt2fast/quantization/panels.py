"""Quantized matrices as the CPU runner's panels (``panel_layout``), and back.

K inputs, N outputs, G groups of inputs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpt2fast.quantization.matrix import QuantizedMatrix
from gpt2fast.quantization.panel_layout import LANES, PanelLayout
from gpt2fast.quantization.scheme import INTEGER_RANGES

_EXPONENT = 0x7F80  # of bfloat16; all ones in infinity and NaN alone
_INFINITY_BYTE = 0x7F  # the upper byte of such a number, but for its sign
_OFFSETS = {"int4": 8, "int3": 4}  # added to what is stored
_LINE = 4 * LANES  # bytes of four inputs, where each has its own


def encode(matrix: QuantizedMatrix[NDArray[Any]]) -> NDArray[np.uint8]:
    """The panels (panels, bytes of a panel) of ``matrix``.

    The inverse of ``decode``; what fills the panels up stands for zeros, as when C++ packs them.
    Raises ValueError for integers beyond the format, scales that are no finite bfloat16 numbers or
    not as many as there are groups.
    """
    integers, scales = matrix.integers, matrix.scales
    outputs, inputs = integers.shape
    layout = PanelLayout(matrix.format, inputs, outputs)
    if scales.shape != (outputs, layout.groups):
        raise ValueError(f"integers {integers.shape} and scales {scales.shape} are not {layout}")
    least, most = INTEGER_RANGES[layout.format.name]
    if int(integers.min()) < least or int(integers.max()) > most:
        raise ValueError(f"integers must be {least} .. {most}")
    panels = np.zeros(layout.shape, np.uint8)
    panels[:, : layout.groups * LANES * 2] = _encode_scales(scales, layout)
    rows = np.zeros((layout.count * LANES, layout.padded_inputs), np.int8)
    rows[:outputs, : layout.inputs] = integers
    start = layout.scale_bytes
    panels[:, start : start + layout.value_bytes] = _encode_integers(rows, layout)
    return panels


def decode(data: NDArray[np.uint8], layout: PanelLayout) -> QuantizedMatrix[NDArray[Any]]:
    """The matrix in the panels ``data``, of an integer format."""
    integers, scales = _decode_integers(data, layout), _decode_scales(data, layout)
    return QuantizedMatrix(integers, scales, layout.format)


def has_finite_scales(data: NDArray[np.uint8], layout: PanelLayout) -> bool:
    """Whether all scales in the panels ``data`` are finite: all else in a panel is a number."""
    # The upper bytes first, in place: no other scale is as large as 2^127.
    upper = _scale_bytes(data, layout)[:, 1::2]
    if not upper.size or int((upper & _INFINITY_BYTE).max()) < _INFINITY_BYTE:
        return True
    return not bool(((_scale_bits(data, layout) & _EXPONENT) == _EXPONENT).any())


def _decode_integers(data: NDArray[np.uint8], layout: PanelLayout) -> NDArray[np.int8]:
    """The integers (N, K), in the range of the format."""
    start = layout.scale_bytes
    values = np.ascontiguousarray(data.reshape(layout.shape)[:, start : start + layout.value_bytes])
    name = layout.format.name
    if name == "int8":
        lines = values.view(np.int8)
    else:
        stored = _unpack_int4(values) if name == "int4" else _unpack_int3(values)
        lines = stored.view(np.int8) - np.int8(_OFFSETS[name])
    quads = lines.reshape(layout.count, -1, LANES, 4)  # (panels, K / 4, 16, 4)
    integers: NDArray[np.int8] = quads.transpose(0, 2, 1, 3).reshape(-1, layout.padded_inputs)
    return integers[: layout.outputs, : layout.inputs]


def _decode_scales(data: NDArray[np.uint8], layout: PanelLayout) -> NDArray[np.float32]:
    """The scales (N, G)."""
    wide = _scale_bits(data, layout).astype(np.uint32) << 16
    panels = wide.view(np.float32).reshape(layout.count, layout.groups, LANES)
    scales: NDArray[np.float32] = panels.transpose(0, 2, 1).reshape(-1, layout.groups)
    return scales[: layout.outputs]


def _scale_bytes(data: NDArray[np.uint8], layout: PanelLayout) -> NDArray[np.uint8]:
    return data.reshape(layout.shape)[:, : layout.groups * LANES * 2]


def _scale_bits(data: NDArray[np.uint8], layout: PanelLayout) -> NDArray[np.uint16]:
    return np.ascontiguousarray(_scale_bytes(data, layout)).view("<u2")


def _encode_scales(scales: NDArray[np.float32], layout: PanelLayout) -> NDArray[np.uint8]:
    bits = np.ascontiguousarray(scales, np.float32).view(np.uint32)
    if bool((bits & 0xFFFF).any()) or not bool(np.isfinite(scales).all()):
        raise ValueError("scales must be finite bfloat16 numbers")
    rows = np.zeros((layout.count * LANES, layout.groups), "<u2")
    rows[: layout.outputs] = bits >> 16
    panels = rows.reshape(layout.count, LANES, layout.groups).transpose(0, 2, 1)
    return np.ascontiguousarray(panels).reshape(layout.count, -1).view(np.uint8)


def _encode_integers(rows: NDArray[np.int8], layout: PanelLayout) -> NDArray[np.uint8]:
    """The values of each panel: of padded outputs and inputs."""
    name = layout.format.name
    quads = rows.reshape(layout.count, LANES, -1, 4).transpose(0, 2, 1, 3)
    lines = (quads + np.int8(_OFFSETS.get(name, 0))).view(np.uint8).reshape(layout.count, -1, _LINE)
    if name == "int4":
        lines = lines[:, 0::2] | lines[:, 1::2] << 4
    elif name == "int3":
        lines = _pack_int3(lines)
    values: NDArray[np.uint8] = lines.reshape(layout.count, -1)
    return values


def _unpack_int4(values: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A byte of two values -> bytes of one: (panels, K / 4, 64)."""
    pairs = values.reshape(len(values), -1, 1, _LINE)
    return np.concatenate([pairs & 15, pairs >> 4], axis=2)


def _pack_int3(lines: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Bytes of one value (panels, K / 4, 64) -> units of three lines: (panels, K / 32, 3, 64)."""
    fours = lines.reshape(len(lines), -1, 8, _LINE)
    units: NDArray[np.uint8] = fours[:, :, 0:6:2].copy()
    units |= fours[:, :, 1:6:2] << 3
    units[:, :, :2] |= (fours[:, :, 6:] & 3) << 6
    units[:, :, 2] |= (fours[:, :, 6] >> 2 << 6) | (fours[:, :, 7] >> 2 << 7)
    return units


def _unpack_int3(values: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Its inverse: (panels, K / 32, 8, 64)."""
    units = values.reshape(len(values), -1, 3, _LINE)
    fours = np.empty((*units.shape[:2], 8, _LINE), np.uint8)
    fours[:, :, 0:6:2], fours[:, :, 1:6:2] = units & 7, units >> 3 & 7
    fours[:, :, 6:] = units[:, :, :2] >> 6
    fours[:, :, 6] |= (units[:, :, 2] >> 6 & 1) << 2
    fours[:, :, 7] |= units[:, :, 2] >> 7 << 2
    return fours


def decode_floats(data: NDArray[np.uint8], layout: PanelLayout) -> NDArray[np.float32]:
    """The matrix (N, K) in the panels ``data``, of float32 or bfloat16."""
    values = np.ascontiguousarray(data.reshape(layout.shape)[:, : layout.value_bytes])
    if layout.format.name == "float32":
        rows = values.view("<f4").reshape(layout.count, -1, LANES).transpose(0, 2, 1)
    else:
        pairs = values.view("<u2").reshape(layout.count, -1, LANES, 2).transpose(0, 2, 1, 3)
        rows = (pairs.astype(np.uint32) << 16).view(np.float32)
    matrix = rows.reshape(layout.count * LANES, -1)[: layout.outputs, : layout.inputs]
    return np.ascontiguousarray(matrix, np.float32)
