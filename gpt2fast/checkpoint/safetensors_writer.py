"""Writing ``.safetensors`` files a tensor at a time, so that only one is in memory."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpt2fast.checkpoint.tensor import ELEMENT_BYTES
from gpt2fast.checkpoint.weight_files import INDEX_SUFFIX, SAFETENSORS
from gpt2fast.files.json_file import write_json

_ALIGNMENT = 64  # of the first tensor in the file

Written = Callable[[int], None]  # is told of the bytes of each tensor written


@dataclass(frozen=True)
class NewTensor:
    """A tensor that can be made when its turn comes."""

    name: str
    dtype: str  # in the names of safetensors
    shape: tuple[int, ...]
    make: Callable[[], NDArray[Any]]  # its values, little-endian

    @property
    def num_bytes(self) -> int:
        """Bytes of its values."""
        return math.prod(self.shape) * ELEMENT_BYTES[self.dtype]


def write_weights(
    directory: Path,
    tensors: Sequence[NewTensor],
    metadata: dict[str, str],
    max_shard_bytes: int,
    written: Written,
) -> None:
    """Write ``model.safetensors``, or shards of at most ``max_shard_bytes`` (more only for a tensor
    that is larger alone) and their index. Files are on the disk when this returns."""
    shards = _split(tensors, max_shard_bytes)
    if len(shards) == 1:
        _write_file(directory / SAFETENSORS, tensors, metadata, written)
        return
    weight_map: dict[str, str] = {}
    stem, suffix = os.path.splitext(SAFETENSORS)
    for number, shard in enumerate(shards, 1):
        file = f"{stem}-{number:05d}-of-{len(shards):05d}{suffix}"
        _write_file(directory / file, shard, metadata, written)
        weight_map |= {tensor.name: file for tensor in shard}
    total = sum(tensor.num_bytes for tensor in tensors)
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    write_json(directory / (SAFETENSORS + INDEX_SUFFIX), index)


def _split(tensors: Sequence[NewTensor], most: int) -> list[list[NewTensor]]:
    shards: list[list[NewTensor]] = [[]]
    size = 0
    for tensor in tensors:
        if shards[-1] and size + tensor.num_bytes > most:
            shards.append([])
            size = 0
        shards[-1].append(tensor)
        size += tensor.num_bytes
    return shards


def _write_file(
    path: Path, tensors: Sequence[NewTensor], metadata: dict[str, str], written: Written
) -> None:
    with path.open("xb") as file:
        file.write(_header(tensors, metadata))
        for tensor in tensors:
            values = np.ascontiguousarray(tensor.make())
            if values.nbytes != tensor.num_bytes:
                raise AssertionError(f"{tensor.name}: {values.nbytes} bytes, not {tensor}")
            file.write(values.reshape(-1).view(np.uint8).data)
            written(tensor.num_bytes)
        file.flush()
        os.fsync(file.fileno())


def _header(tensors: Sequence[NewTensor], metadata: dict[str, str]) -> bytes:
    # transformers 4 refuses a file with metadata that does not say of whose arrays it is.
    fields: dict[str, Any] = {"__metadata__": {"format": "pt", **metadata}}
    start = 0
    for tensor in tensors:
        end = start + tensor.num_bytes
        fields[tensor.name] = {
            "dtype": tensor.dtype,
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
        start = end
    text = json.dumps(fields, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % _ALIGNMENT)
    return len(text).to_bytes(8, "little") + text
