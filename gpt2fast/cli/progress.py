"""Steps done of those there are, on standard error, for work that takes its time."""

from __future__ import annotations

import shutil
import sys
from time import perf_counter

from gpt2fast.cli.terminal import escape

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
            self._write(f"{100 * done // total:3d} %  {text}")

    @staticmethod
    def _write(text: str) -> None:
        width = shutil.get_terminal_size().columns - 1
        sys.stderr.write(f"\r\x1b[K{escape(text)[:width]}")
        sys.stderr.flush()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._shown:
            self._write("")
