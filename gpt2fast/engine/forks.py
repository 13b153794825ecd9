"""What a forked child cannot take over: what threads of its parent were in the middle of."""

from __future__ import annotations

import os
from typing import Protocol
from weakref import WeakSet


class Renewable(Protocol):
    """Holds locks, or state that a thread changes in several moves."""

    def renew(self) -> None:
        """Replace all of that; called in the child, before anything else runs there."""
        ...


_RENEWABLE: WeakSet[Renewable] = WeakSet()


def renew_in_children(each: Renewable) -> None:
    """Have ``each`` renewed in every child forked from now on, as long as it lives."""
    _RENEWABLE.add(each)


def _renew_all() -> None:
    for each in _RENEWABLE:
        each.renew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_all)
