"""One stored tensor: raw little-endian bytes, their type, and conversion to float32."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

# Types a network may be stored in, and the bytes of one element.
FLOAT_BYTES = {"F32": 4, "F16": 2, "BF16": 2, "F64": 8}
FLOAT_TYPES = {"float32": "F32", "bfloat16": "BF16"}  # of a matrix format that has no integers
PACKED = "U8"  # of a quantized matrix: the bytes of its panels
ELEMENT_BYTES = {**FLOAT_BYTES, PACKED: 1}


@dataclass(frozen=True)
class TensorInfo:
    """What a weight file says of one tensor, before any of its bytes is read."""

    name: str  # as stored
    dtype: str  # in the names of safetensors: "F32", "I64", ...
    shape: tuple[int, ...]
    path: Path  # the file that holds it


class WeightFile(Protocol):
    """One file of weights, whatever its format."""

    path: Path
    tensors: dict[str, TensorInfo]  # by stored name
    metadata: dict[str, str]

    def load(self, name: str) -> tuple[NDArray[np.uint8], Callable[[], None]]:
        """Raw bytes of a tensor, and a function that lets their pages leave memory."""
        ...

    def close(self) -> None:
        """Drop the file's map; arrays already handed out stay valid."""
        ...


@dataclass(frozen=True, eq=False)
class StoredTensor:
    """A tensor of a checkpoint under its canonical name."""

    name: str
    dtype: str  # "F32", "F16", "BF16" or "F64"; of a PackedTensor, such as "int8-g64"
    shape: tuple[int, ...]
    data: NDArray[np.uint8]  # read-only raw bytes; the address need not be aligned to the type
    source: Path
    _release: Callable[[], None]

    def float32(self) -> NDArray[np.float32]:
        """The values in float32: the map itself (read-only) when stored so, else a new array.

        Values of F64 beyond the range of float32 become infinite.
        """
        if self.dtype == "BF16":
            bits = self.data.view("<u2").astype(np.uint32)
            bits <<= 16
            flat = bits.view(np.float32)
        else:
            stored = self.data.view({"F32": "<f4", "F16": "<f2", "F64": "<f8"}[self.dtype])
            if not stored.flags.aligned:
                stored = stored.copy()
            with np.errstate(over="ignore"):
                flat = stored.astype(np.float32, copy=False)
        return flat.reshape(self.shape)

    def release(self) -> None:
        """Let the kernel drop the mapped pages of ``data`` from this process's memory.

        The bytes stay readable and are paged in again on the next access.
        """
        self._release()
