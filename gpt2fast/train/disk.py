"""The output directory: room and permission are asked for before a run starts, and named as the
cause when they are missing later."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gpt2fast.errors import GPT2FastError, OptionError

_FULL = (errno.ENOSPC, errno.EDQUOT)
_NOT_WRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST)
_ALMOST_FULL = 2**22


def human_size(num_bytes: int) -> str:
    """``num_bytes`` in MB, or in GB from 1 GB on."""
    return f"{num_bytes / 1e9:.2f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.1f} MB"


def _nearest(out: str) -> Path:
    """``out`` or the first of its parents that exists."""
    path = Path(out).absolute()
    return next(p for p in (path, *path.parents) if p.exists() or p == p.parent)


def check_disk(out: str, num_parameters: int, keep: int) -> None:
    """Raise OptionError unless ``out`` can be written to and has room for ``keep`` checkpoints and
    the model. Writes nothing."""
    place = check_place(out)
    # A checkpoint holds weights and two moments in fp32; one more exists while it is being written.
    needed = num_parameters * 4 * (3 * (keep + 1) + 1)
    room = shutil.disk_usage(place)
    if room.total == 0:  # /proc and the like
        raise _not_writable(out, f"{place} is not on a disk")
    if room.free < needed:
        raise OptionError(
            f"--out {out}: {human_size(needed)} are needed there for checkpoints and model, "
            f"{human_size(room.free)} are free; free some, or lower --keep"
        )


def check_place(out: str, flag: str = "--out") -> Path:
    """The directory that ``out``, given by ``flag``, is or will be made in. Raises OptionError
    unless it can be written to."""
    place = _nearest(out)
    if not place.is_dir():
        raise _not_writable(out, f"{place} is a file, not a directory", flag)
    if not os.access(place, os.W_OK | os.X_OK):
        raise _not_writable(out, f"no permission to write in {place}", flag)
    return place


def make_directory(out: str, directory: Path, flag: str = "--out") -> None:
    """Make ``directory``, which lies in ``out``. Raises OptionError where that cannot be."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if error.errno in _FULL:
            raise
        raise _not_writable(out, error.strerror or str(error), flag) from None


def _not_writable(out: str, reason: str, flag: str = "--out") -> OptionError:
    return OptionError(f"{flag} {out}: cannot write there ({reason}); choose another directory")


@contextmanager
def clear_disk_errors(
    out: str, flag: str = "--out", again: str = "add --resume to go on"
) -> Iterator[None]:
    """Turn a failed write below ``out``, given by ``flag``, into an OptionError that says how to go
    ``again`` on."""
    try:
        yield
    except GPT2FastError:
        raise
    except OSError as error:
        if error.errno in _FULL:
            raise _full(out, error.strerror or str(error), flag, again) from None
        if error.errno not in _NOT_WRITABLE:
            raise
        raise _not_writable(out, f"{error.strerror}: {error.filename}", flag) from None
    except Exception as error:
        # torch and safetensors report a full disk as errors of their own.
        if shutil.disk_usage(_nearest(out)).free > _ALMOST_FULL:
            raise
        raise _full(out, str(error), flag, again) from error


def _full(out: str, reason: str, flag: str, again: str) -> OptionError:
    return OptionError(
        f"{flag} {out}: cannot write there ({reason}); the disk is full. Free space and {again}"
    )
