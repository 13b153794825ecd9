"""A lock that is unlocked in a forked child and that an asynchronous exception does not leave
held."""

from __future__ import annotations

import threading

from gpt2fast.engine.forks import reinit_after_fork


class ForkSafeLock:
    """A reentrant lock, used as ``with lock.rlock:``.

    A forked child gets a new lock, because the thread that held the old one does not exist there.

    ``rlock`` is the C lock itself: Python checks for signals at the start of each Python function
    and after each call, so that Ctrl-C in a Python ``__enter__`` could leave the lock acquired."""

    def __init__(self) -> None:
        self.reinit()
        reinit_after_fork(self)

    def reinit(self) -> None:
        """Replace the lock by one that is not held."""
        self.rlock = threading.RLock()
