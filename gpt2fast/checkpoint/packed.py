"""Quantized matrices as a checkpoint stores them: in panels, of a layout that the file names.

A Conv1D's matrix, (K, N) in a checkpoint of floats, is (N, K) here. Integers alone are stored so: a
matrix of a mixed scheme that keeps floats is a tensor of floats.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpt2fast.checkpoint.tensor import StoredTensor, WeightFile
from gpt2fast.errors import CheckpointError
from gpt2fast.quantization import EMBEDDING, HEAD, Quantization
from gpt2fast.quantization.matrix import QuantizedMatrix
from gpt2fast.quantization.panel_layout import PanelLayout
from gpt2fast.quantization.panels import decode, has_finite_scales

_LAYOUT_KEY, _LAYOUT_VERSION = "gpt2fast_layout", "1"  # of csrc/kernels/panels.h


@dataclass(frozen=True, eq=False)
class PackedTensor(StoredTensor):
    """A matrix in panels. ``shape`` is that of the values; ``dtype`` the label of the format."""

    layout: PanelLayout

    def matrix(self) -> QuantizedMatrix[NDArray[Any]]:
        """Its integers and scales, an output a row: new arrays.

        Raises CheckpointError where a scale is not a number.
        """
        self.check_scales()
        return decode(self.data, self.layout)

    def float32(self) -> NDArray[np.float32]:
        """The values, scale * integer, in the shape of the float checkpoint: a new array.

        Raises CheckpointError where a scale is not a number.
        """
        values: NDArray[np.float32] = self.matrix().dequantize()
        return values if self.name in (EMBEDDING, HEAD) else values.T

    def check_scales(self) -> None:
        """Raises CheckpointError if a scale is NaN or infinite."""
        if not has_finite_scales(self.data, self.layout):
            raise CheckpointError(
                f"{self.source}: tensor {self.name!r} has scales that are NaN or infinite; the "
                "file is damaged: quantize the float checkpoint again"
            )


def panel_metadata(scheme: Quantization) -> dict[str, str]:
    """What a file of panels says of itself. Panels of other formats can have the same size."""
    own = [f"{name} {form.label}" for name, form in scheme.overrides]
    formats = ", ".join([f"blocks {scheme.blocks.label}", f"head {scheme.head.label}", *own])
    return {_LAYOUT_KEY: _LAYOUT_VERSION, "gpt2fast_formats": formats}


def check_panel_metadata(files: Iterable[WeightFile], scheme: Quantization) -> None:
    """Raises CheckpointError naming the first file whose panels are of another layout, or were
    written in other formats than ``scheme``, that of config.json."""
    for file in files:
        for key, want in panel_metadata(scheme).items():
            if (found := file.metadata.get(key)) != want:
                held = f"no {key}" if found is None else f"{key} = {_short(found)}"
                reader = "this version reads" if key == _LAYOUT_KEY else "config.json says"
                raise CheckpointError(
                    f"{file.path}: the metadata has {held}, {reader} "
                    f"{_short(want)}; quantize the float checkpoint again (gpt2fast quantize)"
                )


def _short(text: str) -> str:
    return repr(text if len(text) <= 100 else f"{text[:100]}...")
