"""A memory-mapped ``.safetensors`` file whose header is checked before any tensor is touched.

The format: 8 bytes of little-endian header length N, N bytes of JSON that map a name to dtype,
shape and byte range, then the data. https://huggingface.co/docs/safetensors
"""

from __future__ import annotations

import json
import math
import mmap
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from gpt2fast.checkpoint.tensor import ELEMENT_BYTES, TensorInfo
from gpt2fast.errors import CheckpointError

MAX_HEADER_BYTES = 100_000_000  # the limit of the format's own library


class SafetensorsFile:
    """Implements ``WeightFile``. Raises CheckpointError when the file is damaged or lies."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._map = _map_file(path)
        header, data_start = _read_header(path, self._map)
        self._ranges: dict[str, tuple[int, int]] = {}  # of stored name: start and end in the map
        self.tensors: dict[str, TensorInfo] = {}
        metadata = header.pop("__metadata__", None) or {}  # the library takes null for nothing
        for name, entry in header.items():
            self._add(name, entry, data_start)
        self._check_ranges_tile_the_data(data_start)
        _check_with_library(path)
        self.metadata: dict[str, str] = metadata  # checked by the library

    def load(self, name: str) -> tuple[NDArray[np.uint8], Callable[[], None]]:
        start, end = self._ranges[name]
        data = np.frombuffer(self._map, np.uint8, end - start, start)
        return data, partial(_release_pages, self._map, start, end)

    def close(self) -> None:
        # Arrays handed out keep the map alive; closing it under them would crash the process.
        self._ranges.clear()
        self.tensors = {}

    def _add(self, name: str, entry: Any, data_start: int) -> None:
        where = f"{self.path}: header of tensor {name!r}"
        if not isinstance(entry, dict):
            raise CheckpointError(f"{where} is not a JSON object")
        dtype, shape, offsets = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
        if not isinstance(dtype, str):
            raise CheckpointError(f"{where} has no dtype")
        if not _is_counts(shape) or not _is_counts(offsets) or len(offsets) != 2:
            raise CheckpointError(f"{where} needs a shape and two data_offsets, all >= 0")
        start, end = (data_start + offset for offset in offsets)
        if not start <= end <= len(self._map):
            raise CheckpointError(
                f"{where} claims bytes {start} to {end}, but the file has {len(self._map)}: it is "
                "truncated or damaged; download it again"
            )
        # The others are masks, checked by the library and never read.
        size = ELEMENT_BYTES.get(dtype)
        if size is not None and end - start != math.prod(shape) * size:
            raise CheckpointError(
                f"{where} says {dtype} {shape}, which is not the {end - start} bytes it claims"
            )
        self._ranges[name] = (start, end)
        self.tensors[name] = TensorInfo(name, dtype, tuple(shape), self.path)

    def _check_ranges_tile_the_data(self, data_start: int) -> None:
        position = data_start
        for start, end in sorted(self._ranges.values()):
            if start != position:
                raise CheckpointError(
                    f"{self.path}: tensors overlap or leave a hole at byte {min(start, position)}; "
                    "the file is damaged"
                )
            position = end
        if position != len(self._map):
            raise CheckpointError(
                f"{self.path}: {len(self._map) - position} bytes after the last tensor; "
                "the file is damaged"
            )


def _map_file(path: Path) -> mmap.mmap:
    try:
        with path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:  # an empty file cannot be mapped
        raise CheckpointError(f"{path}: is empty; download it again") from error


def _read_header(path: Path, data: mmap.mmap) -> tuple[dict[str, Any], int]:
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or length > min(len(data) - 8, MAX_HEADER_BYTES):
        raise CheckpointError(
            f"{path}: a header of {length} bytes does not fit in a file of {len(data)}: it is "
            "truncated, or not a safetensors file"
        )
    try:
        header = json.loads(data[8 : 8 + length].decode(), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: the header is damaged: {error}") from error
    if not isinstance(header, dict):
        raise CheckpointError(f"{path}: the header is not a JSON object")
    return header, 8 + length


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a name occurs twice")
    return result


def _is_counts(value: Any) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(item) is int and item >= 0 for item in value)


def _check_with_library(path: Path) -> None:
    """Also refuse what the format's own library would refuse: one file, one meaning."""
    try:
        with safe_open(path, framework="np"):
            pass
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: is not a valid safetensors file: {error}") from error


def _release_pages(data: mmap.mmap, start: int, end: int) -> None:
    # Rounded outwards: a neighbour's byte in a shared page is simply paged in again.
    start -= start % mmap.PAGESIZE
    if end > start and hasattr(mmap, "MADV_DONTNEED"):
        data.madvise(mmap.MADV_DONTNEED, start, end - start)
