"""Whatever the bytes, opening a checkpoint gives a usable one or an error of this package."""

from __future__ import annotations

import json
import resource
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpt2fast.checkpoint import open_checkpoint
from gpt2fast.errors import GPT2FastError

FUZZ = settings(
    max_examples=150,
    deadline=2000,  # milliseconds: a hang is a failure
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
TINY = {"vocab_size": 31, "n_positions": 16, "n_embd": 8, "n_layer": 1, "n_head": 2}


@pytest.fixture
def pristine(tmp_path: Path, make_checkpoint: Callable[..., tuple[Path, Any]]) -> Path:
    path, _ = make_checkpoint(**TINY)
    return Path(shutil.copytree(path, tmp_path / "fuzzed"))


@pytest.fixture(autouse=True)
def little_memory() -> Iterator[None]:
    """Let any large allocation fail: 1 GB above what the process maps now."""
    if not sys.platform.startswith("linux"):  # elsewhere the limit is not enforced
        yield
        return
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (now + 2**30, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def replace_file(path: Path, content: bytes) -> None:
    # A new inode: rewriting a file that an earlier example still maps would pull its pages away.
    path.unlink()
    path.write_bytes(content)


def use(path: Path) -> None:
    """Open and read everything, where opening succeeds."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            checkpoint = open_checkpoint(path)
        except GPT2FastError as error:
            message = str(error)
            if str(path) not in message:
                raise AssertionError(f"no file is named: {message}") from error
            return
    with checkpoint:
        for name in checkpoint.names:
            tensor = checkpoint.tensor(name)
            assert tensor.float32().shape == tensor.shape
            tensor.release()
        assert checkpoint.num_parameters == checkpoint.config.num_parameters


def test_what_is_not_fuzzed_opens(pristine: Path) -> None:
    with open_checkpoint(pristine) as checkpoint:
        assert np.isfinite(checkpoint.tensor("wte.weight").float32()).all()


@FUZZ
@given(data=st.data())
def test_safetensors_with_changed_or_missing_bytes(pristine: Path, data: st.DataObject) -> None:
    file = pristine / "model.safetensors"
    original = file.read_bytes()
    header = 8 + int.from_bytes(original[:8], "little")
    content = bytearray(original)
    for _ in range(data.draw(st.integers(0, 4))):
        content[data.draw(st.integers(0, header - 1))] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content))) :]
    if data.draw(st.booleans()):
        content += data.draw(st.binary(max_size=9))
    replace_file(file, bytes(content))
    try:
        use(pristine)
    finally:
        replace_file(file, original)


HUGE = st.sampled_from([-1, 0, 1, 2, 31, 2**31, 2**32, 2**63, 2**64, 10**30, 1.5, None, True, "1"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)


@FUZZ
@given(data=st.data())
def test_safetensors_with_a_lying_header(pristine: Path, data: st.DataObject) -> None:
    file = pristine / "model.safetensors"
    original = file.read_bytes()
    end = 8 + int.from_bytes(original[:8], "little")
    header = json.loads(original[8:end])
    for _ in range(data.draw(st.integers(1, 3))):
        name = data.draw(st.sampled_from(sorted(header)))
        _lie(header, name, data)
    text = json.dumps(header).encode()
    length = data.draw(st.just(len(text)) | st.integers(0, 2**64 - 1))
    replace_file(file, length.to_bytes(8, "little") + text + original[end:])
    try:
        use(pristine)
    finally:
        replace_file(file, original)


def _lie(header: dict[str, Any], name: str, data: st.DataObject) -> None:
    entry = header[name]
    kind = data.draw(st.sampled_from(["replace", "delete", "rename", "field", "numbers"]))
    if kind == "delete":
        del header[name]
        header.setdefault("x", {})
    elif kind == "rename":
        header[data.draw(st.text(max_size=10))] = header.pop(name)
    elif kind == "field" and isinstance(entry, dict):
        entry[data.draw(st.sampled_from(["dtype", "shape", "data_offsets"]))] = data.draw(
            JSON | st.sampled_from(["F64", "F16", "BF16", "I8", "F8_E4M3", "F4", "BOOL"])
        )
    elif kind == "numbers" and isinstance(entry, dict):
        field = data.draw(st.sampled_from(["shape", "data_offsets"]))
        entry[field] = data.draw(st.lists(HUGE, max_size=3))
    else:
        header[name] = data.draw(JSON)


@FUZZ
@given(data=st.data())
def test_config(pristine: Path, data: st.DataObject) -> None:
    file = pristine / data.draw(st.sampled_from(["config.json", "generation_config.json"]))
    original = file.read_bytes()
    fields = json.loads(original)
    for _ in range(data.draw(st.integers(1, 3))):
        fields[data.draw(st.sampled_from(sorted(fields)))] = data.draw(HUGE | JSON)
    text = json.dumps(fields).encode()
    if data.draw(st.booleans()):
        text = text[: data.draw(st.integers(0, len(text)))]
    replace_file(file, data.draw(st.just(text) | st.binary(max_size=20)))
    try:
        use(pristine)
    finally:
        replace_file(file, original)
