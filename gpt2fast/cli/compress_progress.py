"""What ``gpt2fast compress`` is doing, on standard error: a bar on a terminal, else a log with a
line when a candidate is begun and one with what was measured of it."""

from __future__ import annotations

import shutil
import sys
import time
from typing import Any

from gpt2fast.cli import streams
from gpt2fast.compress.search.progress import Position, duration
from gpt2fast.terminal import escape

_LOG_SECONDS = 60.0  # a pass may take hours, and a log should tell that it goes on
_TEXT, _BAR = "{desc}", "|{bar:20}| {desc}"  # tqdm's formats, without and with a count


class CompressProgress:
    """A context manager; leaving it clears the bar."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._position: Position | None = None
        self._begun = 0.0
        self._logged = float("-inf")

    def trying(self, position: Position) -> None:
        """A candidate is begun."""
        self._position, self._begun = position, time.perf_counter()
        if self._bar is None:
            self._log(f"{position}: {position.label}")
        else:
            self._bar.total, self._bar.n = position.of_about, position.number - 1
            self._bar.bar_format = _BAR
            self.say(position.label)

    def say(self, text: str) -> None:
        """What goes on; the next one takes its place."""
        if self._bar is not None:
            self._bar.set_description_str(escape(self._where() + text))
        elif time.perf_counter() - self._logged >= _LOG_SECONDS:
            self._log(text)

    def result(self, text: str) -> None:
        """What was found; it stays."""
        if self._bar is None:
            self._log(text)
        else:
            self._bar.clear()
            streams.say(text)
            self._bar.refresh()

    def _where(self) -> str:
        if self._position is None:
            return ""
        number, of_about = self._position.number, self._position.of_about
        left = self._position.seconds_left
        if left is not None:
            left -= time.perf_counter() - self._begun
        about = f", {duration(left)} left" if left is not None and left > 0 else ""
        return f"candidate {number} of about {of_about}{about}: "

    def _log(self, text: str) -> None:
        self._logged = time.perf_counter()
        streams.say(text)

    def __enter__(self) -> CompressProgress:
        if sys.stderr.isatty():
            from tqdm import tqdm

            # tqdm shows nothing on a terminal that reports no columns, as some do.
            width = shutil.get_terminal_size().columns
            self._bar = tqdm(bar_format=_TEXT, leave=False, ncols=width, file=sys.stderr)
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()
