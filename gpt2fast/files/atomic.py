"""Files and directories that appear whole or not at all, by one rename.

What is being written lies beside its target as ``.NAME-xxxxxxxx.partial`` and is locked. A process
that is killed leaves it there without the lock: whoever writes the same target next removes it.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from gpt2fast.errors import OptionError
from gpt2fast.files.disk import clear_write_errors
from gpt2fast.files.lock import acquire, lock

_SUFFIX = ".partial"
_LENGTH = 40  # characters of the target's name in that of a stage: names have a limit
_RANDOM = "[a-z0-9_]{8}"  # as tempfile makes them
_ANY = re.compile(rf"\..*-{_RANDOM}{re.escape(_SUFFIX)}", re.DOTALL)


@contextmanager
def staged_directory(target: Path, *, replace: bool = False) -> Iterator[Path]:
    """A new directory that becomes ``target`` at the end, and disappears on any error.

    ``target`` must be absent or an empty directory, unless it is to be replaced. Raises
    OptionError, naming the file, where one cannot be written.
    """
    with _stage(target, _new_directory) as stage:
        yield stage
        stage.chmod(0o777 & ~_umask())
        if replace:
            discard(target)
        os.replace(stage, target)


@contextmanager
def staged_file(target: Path) -> Iterator[Path]:
    """A new, empty file that takes the place of ``target`` at the end, and disappears on any error.

    Raises OptionError, naming ``target``, where it cannot be written.
    """
    with _stage(target, _new_file) as stage:
        yield stage
        stage.chmod(0o666 & ~_umask())
        os.replace(stage, target)


@contextmanager
def scratch_directory(target: Path) -> Iterator[Path]:
    """A directory beside ``target`` for what is needed meanwhile."""
    with _stage(target, _new_directory) as stage:
        yield stage


def discard(path: Path) -> None:
    """Remove a directory, which is gone as a whole: what a killed process leaves of it is nobody's
    under its name. One that is not there is passed over."""
    if not path.is_dir():
        return
    aside = tempfile.mkdtemp(prefix=_prefix(path), suffix=_SUFFIX, dir=path.parent)
    os.replace(path, aside)
    shutil.rmtree(aside, ignore_errors=True)


def check_out(out: Path) -> None:
    """Raises OptionError unless ``out`` is free: absent, or an empty directory. What a killed
    process has left of it is removed."""
    with clear_write_errors(out):
        clear_abandoned(out)
        if out.is_dir() and not any(out.iterdir()):
            return
        if out.exists() or out.is_symlink():
            kind = "is a directory with files in it" if out.is_dir() else "exists and is a file"
            raise OptionError(f"{out} {kind}; give a new name")


def clear_abandoned(target: Path) -> None:
    """Remove what killed processes have left of ``target``."""
    pattern = re.compile(re.escape(_prefix(target)) + _RANDOM + re.escape(_SUFFIX))
    _clear(target.absolute().parent, pattern)


def clear_all_abandoned(directory: Path) -> None:
    """Remove what killed processes have left of anything in ``directory`` and below."""
    for folder, _, _ in os.walk(directory):
        _clear(Path(folder), _ANY)


def _clear(directory: Path, pattern: re.Pattern[str]) -> None:
    try:
        names = [name for name in os.listdir(directory) if pattern.fullmatch(name)]
    except OSError:  # no such directory: nothing was left in it
        return
    for name in names:
        path = directory / name
        try:
            held = None if path.is_symlink() else acquire(path)
        except OSError:  # of a running process, or gone meanwhile
            continue
        if held is None:  # without locks nobody can tell
            continue
        _remove(path)
        os.close(held)


@contextmanager
def _stage(target: Path, new: Callable[[Path], tuple[Path, int]]) -> Iterator[Path]:
    with clear_write_errors(target):
        parent = target.absolute().parent
        parent.mkdir(parents=True, exist_ok=True)
        clear_abandoned(target)
        stage, held = _locked(target, new)
        try:
            with clear_write_errors(stage, target):
                yield stage
        finally:
            _remove(stage)
            os.close(held)


def _locked(target: Path, new: Callable[[Path], tuple[Path, int]]) -> tuple[Path, int]:
    """A new stage and a descriptor that holds its lock, where there are locks."""
    while True:
        stage, descriptor = new(target)
        try:
            lock(descriptor)
        except BlockingIOError:  # between the two calls another process took it for abandoned
            continue
        try:
            if os.path.samestat(os.fstat(descriptor), stage.stat()):
                return stage, descriptor
        except FileNotFoundError:
            pass
        os.close(descriptor)


def _new_directory(target: Path) -> tuple[Path, int]:
    parent = target.absolute().parent
    stage = tempfile.mkdtemp(prefix=_prefix(target), suffix=_SUFFIX, dir=parent)
    return Path(stage), os.open(stage, os.O_RDONLY | os.O_CLOEXEC)


def _new_file(target: Path) -> tuple[Path, int]:
    parent = target.absolute().parent
    descriptor, stage = tempfile.mkstemp(prefix=_prefix(target), suffix=_SUFFIX, dir=parent)
    return Path(stage), descriptor


def _prefix(target: Path) -> str:
    return f".{target.name[:_LENGTH]}-"


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
