"""Ctrl-C during training: the step ends, its result is saved, then the run stops."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


class TrainingInterrupted(KeyboardInterrupt):
    """A run that was interrupted after a whole step. The message says how to go on."""


@contextmanager
def deferred_interrupt() -> Iterator[Callable[[], bool]]:
    """Within the block the first SIGINT only makes the function that is yielded return True, for
    an optimizer stopped halfway through its parameters could not be saved; the second one
    interrupts as ever. Does nothing outside the main thread and where SIGINT is ignored."""
    previous = signal.getsignal(signal.SIGINT)
    mine = threading.current_thread() is threading.main_thread()
    if not mine or not callable(previous):
        yield lambda: False
        return
    pressed = threading.Event()

    def remember(_signal: int, _frame: FrameType | None) -> None:
        pressed.set()
        signal.signal(signal.SIGINT, previous)

    signal.signal(signal.SIGINT, remember)
    try:
        yield pressed.is_set
    finally:
        signal.signal(signal.SIGINT, previous)
