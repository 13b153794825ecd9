"""Steps done of those there are, on a terminal, for work that takes its time."""

from __future__ import annotations

from gpt2fast.status_line import StatusLine

_QUIET_SECONDS = 2.0  # work that is shorter needs no progress


class Progress:
    """A context manager; leaving it clears the line. A log has nothing of it."""

    def __init__(self) -> None:
        self._line = StatusLine(log_seconds=None, quiet_seconds=_QUIET_SECONDS)

    def show(self, text: str, done: int, total: int) -> None:
        """``done`` steps of ``total`` are done of what ``text`` says."""
        self._line.show(f"{100 * done // total:3d} %  {text}", done, total)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *error: object) -> None:
        self._line.close()
