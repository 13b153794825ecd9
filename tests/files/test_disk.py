"""A write that fails names the file, the cause and what to do, whatever library tried it."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpt2fast.errors import OptionError
from gpt2fast.files import disk
from gpt2fast.files.disk import clear_write_errors


def fail(place: Path, error: Exception) -> str:
    with pytest.raises(OptionError) as info, clear_write_errors(place):
        raise error
    return str(info.value)


@pytest.mark.parametrize(
    ("number", "says"),
    [
        (errno.ENOSPC, "the disk is full; free some space"),
        (errno.EDQUOT, "the disk quota is used up; free some space"),
        (errno.EFBIG, "the file system takes no file of this size; write to another disk"),
        (errno.EROFS, "Read-only file system; write to another place"),
    ],
)
def test_causes(number: int, says: str, tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"half")
    assert fail(tmp_path, OSError(number, os.strerror(number))).startswith(
        f"{file}: cannot be written: {says}"
    )
    rust = RuntimeError(f"Error while serializing: I/O error: x (os error {number})")
    assert fail(tmp_path, rust).startswith(f"{file}: cannot be written: {says}")


def test_the_place_is_named_as_it_will_be_called(tmp_path: Path) -> None:
    stage, shown = tmp_path / ".out-abc.partial", Path("out")
    stage.mkdir()
    (stage / "x").write_text("half")
    with pytest.raises(OptionError, match=r"^out/x: ") as info, clear_write_errors(stage, shown):
        raise OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(OptionError, match=r"^out/x: "), clear_write_errors(stage, shown):
        raise OptionError(str(info.value).replace("out/x", f"{stage}/x"))


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError(errno.ENOENT, "No such file", "/elsewhere/input"),
        PermissionError(errno.EACCES, "Permission denied", "/elsewhere/input"),
        KeyError("model"),
        RuntimeError("shapes do not fit"),
        OSError("a sentence"),
    ],
)
def test_other_errors_stay_what_they_are(error: Exception, tmp_path: Path) -> None:
    with pytest.raises(type(error)) as info, clear_write_errors(tmp_path):
        raise error
    assert info.value is error


def _numpy(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, np.zeros(100_000))


def _torch(path: Path) -> None:
    torch = pytest.importorskip("torch")
    torch.save({"a": torch.zeros(100_000)}, path)


def _safetensors(path: Path) -> None:
    from safetensors.numpy import save_file

    save_file({"a": np.zeros(100_000)}, path)


def _tokenizers(path: Path) -> None:
    from tokenizers import Tokenizer, models

    Tokenizer(models.BPE({f"token {i}": i for i in range(10_000)}, [])).save(str(path))


WRITERS: list[Callable[[Path], None]] = [_numpy, _torch, _safetensors, _tokenizers]

_LIMITED = """
import resource, sys
from pathlib import Path
from gpt2fast.files.atomic import staged_file
import test_disk
write, path = getattr(test_disk, sys.argv[1]), Path(sys.argv[2])
write(path.with_name("first"))
resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))
try:
    with staged_file(path) as stage:
        write(stage)
except Exception as error:
    print(type(error).__name__, error)
"""


@pytest.mark.parametrize("write", WRITERS, ids=lambda write: write.__name__)
def test_every_library(write: Any, tmp_path: Path) -> None:
    file = tmp_path / "file"
    done = subprocess.run(
        [sys.executable, "-c", _LIMITED, write.__name__, str(file)],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parent,
        timeout=120,
    )
    assert done.stdout == (
        f"OptionError {file}: cannot be written: no file may have more than 40,000 bytes here "
        "(ulimit -f); raise the limit and repeat it\n"
    ), done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["first"]


def test_a_silent_library_is_asked_about(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """numpy and torch do not say why: another write does."""
    silent = OSError("261882 requested and 127968 written")
    assert "the disk is full" in fail(tmp_path, silent)
    monkeypatch.setattr(disk.tempfile, "TemporaryFile", _out_of_quota)
    assert "quota is used up" in fail(tmp_path, silent)
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


def _out_of_quota(**_: Any) -> Any:
    raise OSError(errno.EDQUOT, "Disk quota exceeded")
