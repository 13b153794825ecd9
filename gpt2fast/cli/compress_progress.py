"""What ``gpt2fast compress`` is doing, on standard error: a bar on a terminal, else a log with a
line when a candidate is begun and one with what was measured of it."""

from __future__ import annotations

import time

from gpt2fast.compress.search.progress import Position, duration
from gpt2fast.status_line import StatusLine

_LOG_SECONDS = 60.0  # a pass may take hours, and a log should tell that it goes on


class CompressProgress:
    """A context manager; leaving it clears the bar."""

    def __init__(self) -> None:
        self._line = StatusLine(_LOG_SECONDS)
        self._position: Position | None = None
        self._begun = 0.0

    def trying(self, position: Position) -> None:
        """A candidate is begun."""
        self._position, self._begun = position, time.perf_counter()
        if self._line.is_terminal:
            self.say(position.label)
        else:
            self._line.keep(f"{position}: {position.label}")

    def say(self, text: str) -> None:
        """What goes on; the next one takes its place."""
        if self._position is None or not self._line.is_terminal:
            self._line.show(text)
        else:
            done, total = self._position.number - 1, self._position.of_about
            self._line.show(self._where(self._position) + text, done, total)

    def result(self, text: str) -> None:
        """What was found; it stays."""
        self._line.keep(text)

    def _where(self, position: Position) -> str:
        left = position.seconds_left
        if left is not None:
            left -= time.perf_counter() - self._begun
        about = f", {duration(left)} left" if left is not None and left > 0 else ""
        return f"candidate {position.number} of about {position.of_about}{about}: "

    def __enter__(self) -> CompressProgress:
        return self

    def __exit__(self, *_: object) -> None:
        self._line.close()
