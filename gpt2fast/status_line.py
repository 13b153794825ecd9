"""What work that takes its time is doing, on standard error: on a terminal one line that changes,
with a bar where steps are counted; in a log few lines."""

from __future__ import annotations

import shutil
import sys
import time
from typing import Any

from gpt2fast.terminal import escape, say

_TEXT, _BAR = "{desc}", "|{bar:20}| {desc}"  # tqdm's formats, without and with a count


class StatusLine:
    """A context manager; leaving it clears the line.

    Attributes:
        log_seconds: between two lines of a log; None for none at all.
        quiet_seconds: after which a terminal has the first line; work that is shorter needs none.
    """

    def __init__(self, log_seconds: float | None, quiet_seconds: float = 0.0) -> None:
        self.log_seconds, self.quiet_seconds = log_seconds, quiet_seconds
        self._begun = time.perf_counter()
        self._logged = float("-inf")
        self._is_terminal = sys.stderr.isatty()
        self._bar: Any = None

    @property
    def is_terminal(self) -> bool:
        """Whether there is a line that changes."""
        return self._is_terminal

    def show(
        self, text: str, done: int | None = None, total: int | None = None, always: bool = False
    ) -> None:
        """``text`` takes the place of what was shown. ``done`` of ``total`` steps are a bar.

        A log has ``text`` if the last line is old enough, or ``always``.
        """
        now = time.perf_counter()
        if self._is_terminal:
            if now - self._begun >= self.quiet_seconds:
                self._draw(text, done, total)
        elif self.log_seconds is not None and (always or now - self._logged >= self.log_seconds):
            self.keep(text)

    def keep(self, text: str) -> None:
        """A line that stays."""
        self._logged = time.perf_counter()
        if self._bar is not None:
            self._bar.clear()
        say(text)
        if self._bar is not None:
            self._bar.refresh()

    def _draw(self, text: str, done: int | None, total: int | None) -> None:
        if self._bar is None:
            from tqdm import tqdm

            # tqdm shows nothing on a terminal that reports no columns or no lines, as some do.
            size = shutil.get_terminal_size()
            self._bar = tqdm(
                bar_format=_TEXT,
                leave=False,
                ncols=size.columns,
                nrows=size.lines,
                file=sys.stderr,
            )
        self._bar.n, self._bar.total = done or 0, total
        self._bar.bar_format = _TEXT if total is None else _BAR
        self._bar.set_description_str(escape(text))

    def close(self) -> None:
        """Clear the line."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def __enter__(self) -> StatusLine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
