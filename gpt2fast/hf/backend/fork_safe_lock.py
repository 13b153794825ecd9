"""A lock that is found open in a forked child, where the thread that held it is not, and that an
exception from outside does not leave held."""

from __future__ import annotations

import threading

from gpt2fast.engine.forks import reinit_after_fork


class Lock:
    """For ``with lock.rlock:``; a thread may take it again while it has it.

    ``rlock`` is the lock of C itself. Python looks for signals where a function begins and behind
    each call: in an ``__enter__`` of our own Ctrl-C could come when the lock has been taken.
    """

    def __init__(self) -> None:
        self.reinit()
        reinit_after_fork(self)

    def reinit(self) -> None:
        """Nobody holds it any more."""
        self.rlock = threading.RLock()
