"""The disk: room and permission are asked for before long work, and named as the cause when they
are missing later."""

from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from gpt2fast.errors import GPT2FastError, OptionError

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NOT_WRITABLE = (*_NO_ROOM, errno.EROFS, errno.EIO)
_OF_RUST = re.compile(r"\(os error (\d+)\)")  # safetensors and tokenizers
_OF_TORCH = re.compile(r"inline_container|PytorchStreamWriter|unexpected pos|iostream error")
_PROBE = 2**20  # bytes: more than what a file system keeps back for a file that grows


def human_size(num_bytes: int) -> str:
    """``num_bytes`` in MB, or in GB from 1 GB on."""
    return f"{num_bytes / 1e9:.2f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.1f} MB"


def check_place(out: str, flag: str) -> Path:
    """The directory that ``out``, given by ``flag``, is or will be made in. Raises OptionError
    unless it can be written to."""
    path = Path(out).absolute()
    place = next(p for p in (path, *path.parents) if p.exists() or p == p.parent)
    if not place.is_dir():
        raise _refused(out, f"{place} is a file, not a directory", flag)
    if not os.access(place, os.W_OK | os.X_OK):
        raise _refused(out, f"no permission to write in {place}", flag)
    if shutil.disk_usage(place).total == 0:  # /proc and the like
        raise _refused(out, f"{place} is not on a disk", flag)
    return place


def check_room(
    place: Path, needed: int, shown: str, purpose: str = "", remedy: str = "write to another disk"
) -> None:
    """Raise OptionError, which names ``shown`` and what to do, unless the disk of ``place`` has
    ``needed`` bytes."""
    free = shutil.disk_usage(place).free
    if free < needed:
        raise OptionError(
            f"{shown}: {human_size(needed)} are needed there{purpose}, {human_size(free)} are "
            f"free; free some, or {remedy}"
        )


def make_directory(out: str, directory: Path, flag: str) -> None:
    """Make ``directory``, which lies in ``out``. Raises OptionError where that cannot be."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise
        raise _refused(out, error.strerror or str(error), flag) from None


def _refused(out: str, reason: str, flag: str) -> OptionError:
    return OptionError(f"{flag} {out}: cannot write there ({reason}); choose another directory")


@contextmanager
def clear_write_errors(place: Path, shown: Path | None = None) -> Iterator[None]:
    """Raise OptionError, which names the file, the cause and what to do, for a write at or below
    ``place`` that fails, whatever library has tried it.

    ``shown``: what ``place`` will be called once it is written.
    """
    try:
        yield
    except GPT2FastError as error:
        text = str(error)
        if shown is None or str(place) not in text:
            raise
        raise type(error)(text.replace(str(place), str(shown))) from None
    except Exception as error:
        number = _number_of(error, place)
        if number is None:
            raise
        file = _file_of(error, place)
        if shown is not None and file.is_relative_to(place):
            file = shown / file.relative_to(place)
        raise OptionError(f"{file}: cannot be written: {_reason(number, error)}") from error


def _number_of(error: Exception, place: Path) -> int | None:
    """The errno of a failed write at ``place``; None where ``error`` is something else."""
    if isinstance(error, OSError) and error.errno is not None:
        if error.errno in _NOT_WRITABLE or _names(error, place):
            return error.errno
        return None
    if found := _OF_RUST.search(str(error)):
        number = int(found.group(1))
        return number if number in _NOT_WRITABLE else None
    # numpy and torch say only that they could not write all.
    silent = isinstance(error, OSError) and "requested and" in str(error)
    if silent or (isinstance(error, RuntimeError) and _OF_TORCH.search(str(error))):
        return _probe(place)
    return None


def _names(error: OSError, place: Path) -> bool:
    """Whether ``error`` is about a path at, below or beside ``place``, or above it."""
    named = error.filename2 or error.filename
    if not isinstance(named, (str, bytes, os.PathLike)):
        return False
    path, place = Path(os.fsdecode(named)).absolute(), place.absolute()
    if path.is_relative_to(place):
        return error.errno != errno.ENOENT  # which is about reading
    return path.parent == place.parent or path in place.parents


def _probe(place: Path) -> int:
    """Why nothing more can be written at ``place``."""
    newest = _newest(place)
    limit = _size_limit()
    if limit is not None and newest.is_file() and newest.stat().st_size >= limit:
        return errno.EFBIG
    folder = newest if newest.is_dir() else newest.parent
    try:
        with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
            left = _PROBE
            while left > 0:  # at a limit the first write is cut short, and the next one fails
                left -= file.write(bytes(left))
    except OSError as error:
        if error.errno is not None:
            return error.errno
    return errno.ENOSPC  # room for this little is there again


def _file_of(error: Exception, place: Path) -> Path:
    named = getattr(error, "filename", None)
    if isinstance(named, (str, bytes, os.PathLike)):
        path = Path(os.fsdecode(named))
        if path.absolute().is_relative_to(place.absolute()):
            return path
        return place
    return _newest(place)


def _newest(place: Path) -> Path:
    """The file at or below ``place`` that was written to last."""
    found = [(0, place)]
    for folder, _, names in os.walk(place):
        for path in (Path(folder) / name for name in names):
            with suppress(OSError):
                found.append((path.stat().st_mtime_ns, path))
    return max(found)[1]


def _size_limit() -> int | None:
    """Bytes that a file of this process may have; None for no limit."""
    import resource

    limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    return None if limit == resource.RLIM_INFINITY else limit


def _reason(number: int, error: Exception) -> str:
    if number in (errno.ENOTEMPTY, errno.EEXIST):
        return "something else was written there meanwhile; give another name"
    if number == errno.ENOSPC:
        return "the disk is full; free some space, or write to another disk, and repeat it"
    if number == errno.EDQUOT:
        return "the disk quota is used up; free some space, or write to another disk, and repeat it"
    if number == errno.EFBIG:
        limit = _size_limit()
        if limit is None:
            return "the file system takes no file of this size; write to another disk"
        return (
            f"no file may have more than {limit:,} bytes here (ulimit -f); raise the limit and "
            "repeat it"
        )
    said = error.strerror if isinstance(error, OSError) else None
    return f"{said or os.strerror(number)}; write to another place"
