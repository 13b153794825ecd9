"""Steps done of those there are, on standard error, for work that takes its time."""

from __future__ import annotations

import sys
from time import perf_counter

from gpt2fast.terminal import show_status

_QUIET_SECONDS = 2.0  # work that is shorter needs no progress


class Progress:
    """One line that changes, where standard error is a terminal. A context manager; leaving it
    clears the line."""

    def __init__(self) -> None:
        self._begin = perf_counter()
        self._shown = False

    def show(self, text: str, done: int, total: int) -> None:
        """``done`` steps of ``total`` are done of what ``text`` says."""
        if perf_counter() - self._begin >= _QUIET_SECONDS and sys.stderr.isatty():
            self._shown = True
            show_status(sys.stderr, f"{100 * done // total:3d} %  {text}")

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._shown:
            show_status(sys.stderr, "")
