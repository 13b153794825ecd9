"""A safetensors file that is truncated, damaged or lies is refused before its data is touched."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpt2fast.checkpoint.safetensors_file import SafetensorsFile
from gpt2fast.errors import CheckpointError


def write(path: Path, header: Any, data: bytes, length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    size = len(text) if length is None else length
    path.write_bytes(size.to_bytes(8, "little") + text + data)
    return path


def entry(start: int, end: int, shape: Any = None, dtype: Any = "F32") -> dict[str, Any]:
    shape = [(end - start) // 4] if shape is None else shape
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


DATA = np.arange(6, dtype="<f4").tobytes()
GOOD = {"a": entry(0, 8), "b": entry(8, 24, [2, 2])}


def test_good(tmp_path: Path) -> None:
    file = SafetensorsFile(write(tmp_path / "x", {"__metadata__": {"format": "pt"}, **GOOD}, DATA))
    assert {name: info.shape for name, info in file.tensors.items()} == {"a": (2,), "b": (2, 2)}
    data, _ = file.load("b")
    np.testing.assert_array_equal(data.view("<f4"), [2, 3, 4, 5])


def test_unaligned_data_is_read(tmp_path: Path) -> None:
    text = json.dumps(GOOD).encode()
    text += b" " * ((1 - len(text)) % 8)  # the data begins at an odd address
    file = SafetensorsFile(write(tmp_path / "x", text, DATA))
    data, _ = file.load("a")
    assert data.ctypes.data % 4
    np.testing.assert_array_equal(data.view("<f4"), [0, 1])


@pytest.mark.parametrize("cut", [0, 1, 7, 8, 9, 50, -1, -20])
def test_truncated(tmp_path: Path, cut: int) -> None:
    path = write(tmp_path / "x.safetensors", GOOD, DATA)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(CheckpointError, match=r"x\.safetensors"):
        SafetensorsFile(path)


@pytest.mark.parametrize("length", [0, 1, 10**6, 2**31, 2**63, 2**64 - 1])
def test_lying_header_length(tmp_path: Path, length: int) -> None:
    path = write(tmp_path / "x.safetensors", GOOD, DATA, length)
    with pytest.raises(CheckpointError, match=r"x\.safetensors"):
        SafetensorsFile(path)


LIES: dict[str, Any] = {
    "beyond the end": {"a": entry(0, 8), "b": entry(8, 10**15, [2, 2])},
    "negative offset": {"a": entry(-8, 0), "b": entry(0, 24, [6])},
    "reversed": {"a": entry(8, 0, [2]), "b": entry(0, 24, [6])},
    "overlap": {"a": entry(0, 12), "b": entry(8, 24, [2, 2])},
    "hole": {"a": entry(0, 4), "b": entry(8, 24, [2, 2])},
    "rest": {"a": entry(0, 8), "b": entry(8, 20)},
    "wrong shape": {"a": entry(0, 8, [3]), "b": entry(8, 24, [2, 2])},
    "overflowing shape": {"a": entry(0, 8, [2**63, 2]), "b": entry(8, 24, [2, 2])},
    "negative shape": {"a": entry(0, 8, [-1, -2]), "b": entry(8, 24, [2, 2])},
    "float shape": {"a": entry(0, 8, [2.0]), "b": entry(8, 24, [2, 2])},
    "bool shape": {"a": entry(0, 4, [True]), "b": entry(4, 24, [5])},
    "unknown dtype": {"a": entry(0, 8, [2], "F99"), "b": entry(8, 24, [2, 2])},
    "no dtype": {"a": entry(0, 8, [2], None), "b": entry(8, 24, [2, 2])},
    "one offset": {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0]}},
    "no object": {"a": 5},
    "list": [1],
    "not JSON": b"{'a': 1}",
    "not UTF-8": b"\xff\xfe{}",
    "nested": b"[" * 10_000,
    "name twice": b'{"a": %s, "a": %s}' % ((json.dumps(entry(0, 24)).encode(),) * 2),
    "metadata": {"__metadata__": 5, **GOOD},
}


@pytest.mark.parametrize("header", LIES.values(), ids=LIES.keys())
def test_lies(tmp_path: Path, header: Any) -> None:
    path = write(tmp_path / "x.safetensors", header, DATA)
    with pytest.raises(CheckpointError, match=r"x\.safetensors"):
        SafetensorsFile(path)


def test_unreadable(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot be read"):
        SafetensorsFile(tmp_path / "absent")
    (tmp_path / "empty").touch()
    with pytest.raises(CheckpointError, match="is empty"):
        SafetensorsFile(tmp_path / "empty")
