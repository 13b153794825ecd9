"""How far a benchmark is: the case under way, and how long the rest takes."""

from __future__ import annotations

import time
from collections.abc import Sequence

from gpt2fast.bench.grid import Case
from gpt2fast.status_line import StatusLine

_LOG_SECONDS = 10.0  # between lines where there is no terminal


class Progress(StatusLine):
    """A context manager; leaving it clears the line."""

    def __init__(self, rounds: int) -> None:
        super().__init__(_LOG_SECONDS)
        self._rounds = rounds
        self._done = 0
        self._total = 0
        self._begin = time.perf_counter()

    def say(self, text: str) -> None:
        """Something that takes time begins."""
        self.show(text, always=True)

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
        self.show(
            f"[{done}/{self._total}] round {number + 1}/{self._rounds}  {case}  "
            f"{speed:.1f} tok/s  {_duration(left)} left",
            done=done,
            total=self._total,
            always=done in (1, self._total),
        )


def _duration(seconds: float) -> str:
    whole = round(seconds)
    return f"{whole // 60}:{whole % 60:02d}"
