"""Which recipe is the smallest that keeps to a budget, with few of them tried.

Each candidate has levels, one for each thing that can be done more or less of (layers removed, bits
of the blocks, bits of the head), and the bytes that a step of it will read, which decide its size
and, at batch 1, its speed. Two facts spare most of the work: a candidate that loses too much is not
mended by doing more of everything, and one that is too large or too slow not by doing less.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

from gpt2fast.compress.budget import Budget, BudgetError, Measured
from gpt2fast.compress.recipe.recipe import Recipe

_SAME_SPEED = 0.95  # of the fastest: what two timings of one model may differ by
_SLACK = 1.01  # of predicted bytes: vectors are padded in memory and not in the file


@dataclass(frozen=True)
class Candidate:
    """A recipe that may be tried."""

    recipe: Recipe
    levels: tuple[int, ...]  # more is smaller, and loses more
    step_bytes: int  # of weights that a decode step will read
    num_bytes: int = 0  # of the weights as they will be stored; 0 where that is not known

    def at_least(self, other: Candidate) -> bool:
        """Whether everything that ``other`` does is done here, or more of it."""
        return all(a >= b for a, b in zip(self.levels, other.levels, strict=True))


Begin = Callable[[Candidate, float], None]  # a candidate, and how many are likely to follow it


@dataclass(frozen=True)
class TrialResult:
    """A candidate with what was measured of it."""

    candidate: Candidate
    measured: Measured


def search(
    candidates: Sequence[Candidate],
    budget: Budget,
    try_out: Callable[[Candidate], Measured],
    share: float = 1.0,
    begin: Begin = lambda candidate, after: None,
) -> list[TrialResult]:
    """Try candidates until no other can be better than the best one that keeps to ``budget``:
    smaller, or where no loss is named as allowed, with less of it.

    ``share`` of the allowed loss is what the choice may use up, so that chance on the text of the
    choice does not decide. ``begin`` is told each candidate before it is tried, and how many are
    likely to be tried after it. Returns all that were tried, in that order. Raises BudgetError
    where all are known to be too large.
    """
    tried: list[TrialResult] = []
    left = sorted(small_enough(candidates, budget), key=lambda c: c.step_bytes)
    while left:
        candidate = left[len(left) // 2]
        begin(candidate, expected_tries(left, budget) - 1)
        measured = try_out(candidate)
        tried.append(TrialResult(candidate, measured))
        keeps = budget.holds_loss(measured, share), budget.holds_size(measured)
        left = _left_over(left, candidate, *keeps, budget)
    return tried


def _left_over(
    left: list[Candidate],
    candidate: Candidate,
    keeps_loss: bool,
    keeps_size: bool,
    budget: Budget,
) -> list[Candidate]:
    """Those of ``left`` that are still worth trying when ``candidate`` has been."""
    left = [other for other in left if other is not candidate]
    least_loss = keeps_size and budget.max_loss is None
    if not keeps_loss or least_loss:
        left = [other for other in left if not other.at_least(candidate)]
    if not keeps_size or (keeps_loss and not least_loss):
        # Others of its size would be no better, or too large as well.
        left = [other for other in left if other.step_bytes < candidate.step_bytes]
    return left


def expected_tries(left: list[Candidate], budget: Budget) -> float:
    """How many of ``left``, by size, ``search`` will try, if each is as likely to keep a part of
    ``budget`` as not to."""
    known: dict[tuple[int, ...], float] = {(): 0.0}
    losses = (True, False) if budget.max_loss is not None else (True,)
    sizes = (True, False) if budget.min_speedup or budget.max_bytes else (True,)

    def tries(rest: list[Candidate]) -> float:
        key = tuple(map(id, rest))
        if key not in known:
            middle = rest[len(rest) // 2]
            after = [
                tries(_left_over(rest, middle, keeps_loss, keeps_size, budget))
                for keeps_loss, keeps_size in product(losses, sizes)
            ]
            known[key] = 1.0 + sum(after) / len(after)
        return known[key]

    return tries(left)


def small_enough(candidates: Sequence[Candidate], budget: Budget) -> list[Candidate]:
    """Without those whose bytes are known to be too many. Raises BudgetError where all are."""
    if budget.max_bytes is None:
        return list(candidates)
    most = budget.max_bytes * _SLACK
    found = [c for c in candidates if c.num_bytes <= most]
    if candidates and not found:
        least = min(c.num_bytes for c in candidates)
        raise BudgetError(
            f"--max-size {budget.max_bytes / 1e6:g} MB cannot be reached: the smallest of the "
            f"{len(candidates)} recipes makes {least / 1e6:.1f} MB"
        )
    return found


def best_first(
    tried: Sequence[TrialResult], budget: Budget, share: float = 1.0
) -> list[TrialResult]:
    """Those that keep to ``budget``, the fastest first, or where no loss is named as allowed, the
    one that loses least. Of those as fast within what timings scatter the smallest is first.
    """
    good = [
        t for t in tried if budget.holds_loss(t.measured, share) and budget.holds_size(t.measured)
    ]
    if budget.max_loss is None:
        return sorted(good, key=lambda t: t.measured.loss)
    fastest = max((t.measured.speedup for t in good), default=0.0)

    def rank(item: TrialResult) -> tuple[float, int]:
        behind = item.measured.speedup / fastest
        return 0.0 if behind >= _SAME_SPEED else 1.0 - behind, item.candidate.step_bytes

    return sorted(good, key=rank)


def nearest(tried: Sequence[TrialResult], budget: Budget) -> TrialResult:
    """The one that misses least: fewest parts of the budget, then the smallest excess of all."""

    def excess(item: TrialResult) -> tuple[int, float]:
        m = item.measured
        over = [
            m.loss_high / budget.max_loss if budget.max_loss else 0.0,
            budget.min_speedup / m.speedup if budget.min_speedup else 0.0,
            m.num_bytes / budget.max_bytes if budget.max_bytes else 0.0,
        ]
        return len(budget.misses(m)), max(over)

    return min(tried, key=excess)


def pareto(tried: Sequence[TrialResult]) -> list[TrialResult]:
    """Those that no other beats in both loss and speed, by speed."""
    front = [
        t
        for t in tried
        if not any(
            o.measured.loss <= t.measured.loss
            and o.measured.speedup >= t.measured.speedup
            and (o.measured.loss, o.measured.speedup) != (t.measured.loss, t.measured.speedup)
            for o in tried
        )
    ]
    return sorted(front, key=lambda t: t.measured.speedup)
