"""How far a search is: which candidate of about how many, and how long the rest may take."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass

from gpt2fast.compress.search.search import Candidate


@dataclass(frozen=True)
class Position:
    """A candidate that is about to be tried."""

    number: int  # from 1
    of_about: int
    seconds_left: float | None  # this one included; None before one of its kind has been tried
    label: str

    def __str__(self) -> str:
        left = "" if self.seconds_left is None else f", about {duration(self.seconds_left)} left"
        return f"candidate {self.number} of about {self.of_about}{left}"


Trying = Callable[[Position], None]


class Count:
    """Told of each candidate before it is tried. Candidates of a set are alike, so that the time of
    the rest is estimated from what those tried before it in the set took."""

    def __init__(self, trying: Trying, seconds: Callable[[Candidate], float]) -> None:
        self._trying, self._seconds = trying, seconds
        self._before = 0
        self._set: list[Candidate] = []
        self._later = 0

    def next_set(self, later: int) -> None:
        """Another set of candidates follows, and about ``later`` candidates after it."""
        self._before += len(self._set)
        self._set, self._later = [], later

    def begin(self, candidate: Candidate, after: float) -> None:
        """``candidate`` is tried now, and likely ``after`` more of its set."""
        rest = 1 + round(after) + self._later
        number = self._before + len(self._set) + 1
        took = [self._seconds(each) for each in self._set]
        left = statistics.mean(took) * rest if took else None
        self._set.append(candidate)
        self._trying(Position(number, number + rest - 1, left, candidate.recipe.label))


def duration(seconds: float) -> str:
    """Such as "40 s", "4 min" or "2 h 10 min"."""
    if seconds < 60:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
