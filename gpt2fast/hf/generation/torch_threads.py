"""One thread for torch while the backend decodes.

OpenMP's workers spin for milliseconds after each operation of torch, and keep the runner's threads
from their cores.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, TypeVar

import torch

from gpt2fast.hf.backend.fork_safe_lock import ForkSafeLock

T = TypeVar("T")

# The number of torch's threads before each call that is under way, with the thread of the call,
# which is not alive in a forked child.
_LOCK = ForkSafeLock()
_ACTIVE_CALLS: list[tuple[threading.Thread, int]] = []


def with_one_torch_thread(call: Callable[[], T]) -> T:
    """The result of ``call``, during which torch has one thread.

    Not a context manager: Ctrl-C at the start of an ``__exit__`` in Python would skip it. The first
    call within a ``finally`` is always made.
    """
    with _LOCK.rlock:
        before = torch.get_num_threads()
        others = [count for thread, count in _ACTIVE_CALLS if thread.is_alive()]
        if before == 1 and others:  # set by a call in another thread
            before = others[0]
        entry = (threading.current_thread(), before)
    try:
        _ACTIVE_CALLS.append(entry)
        torch.set_num_threads(1)
        return call()
    finally:
        try:
            torch.set_num_threads(before)
        finally:
            _remove(entry)


def _remove(entry: tuple[threading.Thread, int]) -> None:
    with _LOCK.rlock:
        if entry in _ACTIVE_CALLS:
            _ACTIVE_CALLS.remove(entry)


def with_all_torch_threads(call: Callable[..., T], *args: Any) -> T:
    """The result of ``call(*args)`` with torch's usual threads, within ``with_one_torch_thread``:
    for code of the user, which may need them."""
    here = threading.current_thread()
    torch.set_num_threads([count for thread, count in _ACTIVE_CALLS if thread is here][-1])
    result = call(*args)
    torch.set_num_threads(1)  # after an exception with_one_torch_thread restores the number
    return result
