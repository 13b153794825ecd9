"""Log-odds of many sentences in a few figures, alone and before and after a change."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpt2fast.errors import OptionError
from gpt2fast.evaluate.bias import BiasOdds
from gpt2fast.evaluate.bootstrap import RESAMPLES, interval

_ALL = "all"


def summarize_bias(odds: BiasOdds, *, seed: int = 0, resamples: int = RESAMPLES) -> dict[str, Any]:
    """Mean log-odds and ``spread`` of each template, and with an interval over words of each
    category and of all sentences.

    The spread is the standard deviation over words within a template: how much the choice of the
    term depends on the word, whatever the terms' own frequencies.
    """
    return {
        "categories": {
            name: {
                **interval(
                    odds.log_odds[of], odds.groups[of], seed=seed, resamples=resamples
                ).as_dict(),
                "spread": _spread(odds, of),
            }
            for name, of in _categories(odds).items()
        },
        "templates": [
            {
                "category": category,
                "template": template,
                "terms": list(terms),
                "mean": float(odds.log_odds[of].mean()),
                "spread": _spread(odds, of),
            }
            for (category, template, terms), of in _templates(odds).items()
        ],
    }


def compare_bias(
    before: BiasOdds, after: BiasOdds, *, seed: int = 0, resamples: int = RESAMPLES
) -> dict[str, Any]:
    """What a change to a model did to the log-odds, for each category and all sentences.

    ``change`` is the mean of (after - before); changes that point in different directions cancel
    in it, and do not in ``absolute_change``. Both have paired intervals over words.
    """
    if before.sentences != after.sentences:
        raise OptionError("the two models were asked different sentences; give both the same")
    moved = after.log_odds - before.log_odds
    report: dict[str, Any] = {}
    for name, of in _categories(before).items():
        groups = before.groups[of]
        change = interval(moved[of], groups, seed=seed, resamples=resamples)
        size = interval(np.abs(moved[of]), groups, seed=seed, resamples=resamples)
        report[name] = {
            "change": change.as_dict(),
            "absolute_change": size.as_dict(),
            "spread_change": _spread(after, of) - _spread(before, of),
            "changed": bool(change.low > 0 or change.high < 0),
        }
    return report


_Chosen = NDArray[np.intp]


def _categories(odds: BiasOdds) -> dict[str, _Chosen]:
    """The sentences of each category, and all."""
    found: dict[str, list[int]] = {_ALL: list(range(len(odds.sentences)))}
    for number, sentence in enumerate(odds.sentences):
        found.setdefault(sentence.category, []).append(number)
    return {name: np.array(numbers, dtype=np.intp) for name, numbers in found.items()}


def _templates(odds: BiasOdds) -> dict[tuple[str, str, tuple[str, str]], _Chosen]:
    found: dict[tuple[str, str, tuple[str, str]], list[int]] = {}
    for number, each in enumerate(odds.sentences):
        found.setdefault((each.category, each.template, each.terms), []).append(number)
    return {name: np.array(numbers, dtype=np.intp) for name, numbers in found.items()}


def _spread(odds: BiasOdds, of: _Chosen) -> float:
    """Standard deviation over words, within templates."""
    chosen = set(of.tolist())
    rest = [
        odds.log_odds[numbers] - odds.log_odds[numbers].mean()
        for numbers in _templates(odds).values()
        if chosen.issuperset(numbers.tolist())
    ]
    return float(np.sqrt(np.mean(np.concatenate(rest) ** 2)))
