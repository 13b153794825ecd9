"""What is going on, on standard error: one line that changes on a terminal, few lines in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from types import TracebackType

from gpt2fast.bench.grid import Case
from gpt2fast.terminal import show_status

_LOG_SECONDS = 10.0  # between lines where there is no terminal


class Progress:
    """A context manager; leaving it clears the line."""

    def __init__(self, rounds: int) -> None:
        self._rounds = rounds
        self._done = 0
        self._total = 0
        self._begin = time.perf_counter()
        self._logged = float("-inf")
        self._stream = sys.stderr
        self._is_terminal = self._stream.isatty()

    def say(self, text: str) -> None:
        """Something that takes time begins."""
        self._show(text, always=True)

    def expect(self, steps: int) -> None:
        """The timed part begins and has ``steps`` steps."""
        self._total = steps
        self._begin = time.perf_counter()

    def step(self) -> None:
        """A step is done."""
        self._done += 1

    def sampled(self, case: Case, number: int, times: Sequence[float]) -> None:
        """A run was measured; ``times`` as in ``Sample``."""
        speed = case.batch * (len(times) - 1) / (times[-1] - times[0])
        done = self._done + 1
        left = (time.perf_counter() - self._begin) / done * (self._total - done)
        self._show(
            f"[{done}/{self._total}] round {number + 1}/{self._rounds}  {case}  "
            f"{speed:.1f} tok/s  {_duration(left)} left",
            always=done in (1, self._total),
        )

    def _show(self, text: str, always: bool) -> None:
        now = time.perf_counter()
        if self._is_terminal:
            show_status(self._stream, text)
        elif always or now - self._logged >= _LOG_SECONDS:
            self._logged = now
            self._stream.write(text + "\n")
            self._stream.flush()

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._is_terminal:
            show_status(self._stream, "")


def _duration(seconds: float) -> str:
    whole = round(seconds)
    return f"{whole // 60}:{whole % 60:02d}"
