"""Locks on files and directories, which the system gives back when their process ends, however."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gpt2fast.errors import OptionError


def acquire(path: Path) -> int | None:
    """A descriptor that holds the lock of ``path`` until it is closed; None where the file system
    has no locks. Raises BlockingIOError where another one holds it."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    if lock(descriptor):
        return descriptor
    os.close(descriptor)
    return None


def lock(descriptor: int) -> bool:
    """Take the lock of an open file; False where the file system has no locks. Raises
    BlockingIOError, and closes ``descriptor``, where another one holds it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise
    except OSError:  # a network file system, perhaps
        return False
    return True


@contextmanager
def exclusive(directory: Path) -> Iterator[None]:
    """Keep other processes that ask for the same out of ``directory``, which exists. Raises
    OptionError where one is there already."""
    try:
        descriptor = acquire(directory)
    except BlockingIOError:
        raise OptionError(
            f"{directory}: another process is at work there; wait for its end, or choose another "
            "directory"
        ) from None
    try:
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)
