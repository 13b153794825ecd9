"""A lock that a forked child finds open: the thread that held it is not in the child."""

from __future__ import annotations

import os
import threading
import weakref
from contextlib import suppress


class Lock:
    """For ``with``; a thread may take it again while it has it."""

    def __init__(self) -> None:
        self.renew()
        _LOCKS.add(self)

    def renew(self) -> None:
        """Nobody holds it any more."""
        self._lock = threading.RLock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        with suppress(RuntimeError):  # of a child that was forked in here
            self._lock.release()


_LOCKS: weakref.WeakSet[Lock] = weakref.WeakSet()


def _renew_all() -> None:
    for each in _LOCKS:
        each.renew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_all)
