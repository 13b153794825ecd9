"""What a forked child cannot take over: what threads of its parent were in the middle of."""

from __future__ import annotations

import os
from typing import Protocol
from weakref import WeakSet


class Reinitializable(Protocol):
    """Holds locks, or state that a thread changes in several moves."""

    def reinit(self) -> None:
        """Replace all of that; called in the child, before anything else runs there."""
        ...


_REGISTERED: WeakSet[Reinitializable] = WeakSet()


def reinit_after_fork(each: Reinitializable) -> None:
    """Call ``each.reinit()`` in every child forked from now on, as long as ``each`` lives."""
    _REGISTERED.add(each)


def _reinit_all() -> None:
    for each in _REGISTERED:
        each.reinit()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reinit_all)
