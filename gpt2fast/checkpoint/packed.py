"""Quantized matrices as they are stored: the bytes of the CPU runner's panels, and their values.

The layout is that of ``gpt2fast.quantization.PanelLayout``. A weight is scale * integer; K inputs,
N outputs, G groups of inputs.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gpt2fast.checkpoint.tensor import StoredTensor, WeightFile
from gpt2fast.errors import CheckpointError
from gpt2fast.quantization import EMBEDDING, HEAD, LANES, PanelLayout, Quantization

_LAYOUT_KEY, _LAYOUT_VERSION = "gpt2fast_layout", "1"  # of csrc/kernels/panels.h
_EXPONENT = 0x7F80  # of bfloat16; all ones in infinity and NaN alone
_INFINITY_BYTE = 0x7F  # the upper byte of such a number, but for its sign


@dataclass(frozen=True, eq=False)
class PackedTensor(StoredTensor):
    """A matrix in panels. ``shape`` is that of the values; ``dtype`` the label of the format."""

    layout: PanelLayout

    def float32(self) -> NDArray[np.float32]:
        """The values, scale * integer, in the shape of the float checkpoint: a new array.

        Raises CheckpointError where a scale is not a number.
        """
        self.check_scales()
        values = decode(self.data, self.layout)
        return values if self.name in (EMBEDDING, HEAD) else values.T

    def check_scales(self) -> None:
        """Raises CheckpointError if a scale is NaN or infinite: all else in a panel is a number."""
        # The upper bytes first, in place: no other scale is as large as 2^127.
        upper = _scale_bytes(self.data, self.layout)[:, 1::2]
        if upper.size and int((upper & _INFINITY_BYTE).max()) == _INFINITY_BYTE:
            bits = _scale_bits(self.data, self.layout)
            if bool(((bits & _EXPONENT) == _EXPONENT).any()):
                raise CheckpointError(
                    f"{self.source}: tensor {self.name!r} has scales that are NaN or infinite; the "
                    "file is damaged: quantize the float checkpoint again"
                )


def panel_metadata(scheme: Quantization) -> dict[str, str]:
    """What a file of panels says of itself. Panels of other formats can have the same size."""
    formats = f"blocks {scheme.blocks.label}, head {scheme.head.label}"
    return {_LAYOUT_KEY: _LAYOUT_VERSION, "gpt2fast_formats": formats}


def check_panel_metadata(files: Iterable[WeightFile], scheme: Quantization) -> None:
    """Raises CheckpointError naming the first file whose panels are of another layout, or were
    written in other formats than ``scheme``, that of config.json."""
    for file in files:
        for key, want in panel_metadata(scheme).items():
            if (found := file.metadata.get(key)) != want:
                reader = "this version reads" if key == _LAYOUT_KEY else "config.json says"
                raise CheckpointError(
                    f"{file.path}: the metadata has {key} = {found!r}, {reader} {want!r}; quantize "
                    "the float checkpoint again (gpt2fast quantize)"
                )


def decode(data: NDArray[np.uint8], layout: PanelLayout) -> NDArray[np.float32]:
    """The matrix (N, K) in the bytes ``data`` of an integer format."""
    scales = decode_scales(data, layout)
    values = decode_integers(data, layout).astype(np.float32)
    group = layout.format.group_size
    for index in range(layout.groups):
        values[:, index * group : (index + 1) * group] *= scales[:, index : index + 1]
    return values


def decode_integers(data: NDArray[np.uint8], layout: PanelLayout) -> NDArray[np.int8]:
    """The integers (N, K): -127 .. 127 of int8, -8 .. 7 of int4."""
    start = layout.scale_bytes
    values = data.reshape(layout.shape)[:, start : start + layout.value_bytes]
    padded = layout.padded_inputs
    if layout.format.name == "int8":
        quads = np.ascontiguousarray(values).view(np.int8).reshape(-1, padded // 4, LANES, 4)
        rows = quads.transpose(0, 2, 1, 3)
    else:
        octets = values.reshape(-1, padded // 8, LANES, 4)
        halves = np.stack([octets & 15, octets >> 4], axis=3)  # (panels, K / 8, 16, 2, 4)
        rows = halves.transpose(0, 2, 1, 3, 4).view(np.int8) - np.int8(8)
    integers: NDArray[np.int8] = rows.reshape(-1, padded)
    return integers[: layout.outputs, : layout.inputs]


def decode_scales(data: NDArray[np.uint8], layout: PanelLayout) -> NDArray[np.float32]:
    """The scales (N, G)."""
    wide = _scale_bits(data, layout).astype(np.uint32) << 16
    panels = wide.view(np.float32).reshape(layout.count, layout.groups, LANES)
    scales: NDArray[np.float32] = panels.transpose(0, 2, 1).reshape(-1, layout.groups)
    return scales[: layout.outputs]


def _scale_bytes(data: NDArray[np.uint8], layout: PanelLayout) -> NDArray[np.uint8]:
    return data.reshape(layout.shape)[:, : layout.groups * LANES * 2]


def _scale_bits(data: NDArray[np.uint8], layout: PanelLayout) -> NDArray[np.uint16]:
    return np.ascontiguousarray(_scale_bytes(data, layout)).view("<u2")
