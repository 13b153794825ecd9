"""Log probabilities and the most likely tokens of one row of logits."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from gpt2fast.errors import CheckpointError

Logits = NDArray[np.float32]
TokenIds = NDArray[np.int64]

_COLUMNS = 4  # for each candidate wanted: fewer let more through than are wanted
_MOST_ROWS = 64


def prefilter(values: NDArray[np.float32], count: int) -> TokenIds:
    """Ids, ascending, of all ``values`` (V,) from some bound on, at least ``count`` of them.

    The bound is the ``count``-th largest of the maxima of columns: so many columns have a value
    that reaches it. Two passes at the speed of memory, where a selection among all takes ten.
    """
    rows = min(len(values) // (_COLUMNS * count), _MOST_ROWS)
    if rows < 2:
        return np.arange(len(values))
    columns = len(values) // rows
    maxima = values[: rows * columns].reshape(rows, columns).max(axis=0)
    return np.flatnonzero(values >= np.partition(maxima, columns - count)[columns - count])


def keep_top_k(logits: Logits, k: int) -> TokenIds:
    """Ids, ascending, of the ``k`` largest of ``logits`` (V,); ties with the k-th are kept."""
    ids = prefilter(logits, k)
    values = logits[ids]
    kept: TokenIds = ids[values >= np.partition(values, len(values) - k)[len(values) - k]]
    return kept


def check_finite(best_logit: float) -> None:
    """Refuse a row by its largest logit: argmax prefers NaN, so one look finds any of them."""
    if not math.isfinite(best_logit):
        raise CheckpointError(
            f"the model's largest logit is {best_logit}: its weights are damaged, or its "
            "activations overflow the dtype; check the checkpoint or use dtype='float32'"
        )


def top_logprobs(logits: Logits, token: int, count: int) -> list[tuple[int, float, int]]:
    """(token, log p, rank) of ``token``, then of the ``count`` most likely, perhaps it among them.

    From raw ``logits`` (V,); rank 1 is the most likely.
    """
    log_sum = log_sum_exp(logits)
    rank = int(np.count_nonzero(logits > logits[token])) + 1
    found = [(token, float(logits[token]) - log_sum, rank)]
    if count:
        top = keep_top_k(logits, min(count, len(logits)))
        best_first = top[np.argsort(-logits[top], kind="stable")][:count].tolist()
        found += [
            (other, float(logits[other]) - log_sum, rank)
            for rank, other in enumerate(best_first, start=1)
        ]
    return found


def log_sum_exp(logits: Logits) -> float:
    """log of the sum of exp over ``logits`` (V,), the sum in double precision."""
    best = logits.max()
    return float(best) + math.log(float(np.exp(logits - best).sum(dtype=np.float64)))
