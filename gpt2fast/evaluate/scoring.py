"""From logits to one number a token, in memory for one window."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from gpt2fast.errors import GPT2FastError
from gpt2fast.evaluate.windows import Window

# Rows at a time: few enough that they stay in the cache between the four passes over them.
ROWS = 8
Step = Callable[[], None]  # called after each window


class Scorer(Protocol):
    """Teacher-forced logits (T, V) of ``token_ids`` (T,): row t predicts token t + 1. Anything that
    ``numpy.asarray`` takes may come back."""

    def __call__(self, token_ids: Sequence[int], /) -> NDArray[np.float32]: ...


class Remembering:
    """A scorer that has its last logits at hand: ends of one token that are compared behind the
    same text cost one pass over it."""

    def __init__(self, scorer: Scorer) -> None:
        self._scorer = scorer
        self._asked: tuple[int, ...] | None = None
        self._logits: NDArray[np.float32]

    def __call__(self, token_ids: Sequence[int], /) -> NDArray[np.float32]:
        asked = tuple(token_ids)
        if asked != self._asked:
            self._logits, self._asked = self._scorer(asked), asked
        return self._logits


def token_nats(
    scorer: Scorer, windows: Iterable[Window], step: Step | None = None
) -> NDArray[np.float64]:
    """Negative log-likelihood, in nats, of every predicted token (N,) of ``windows``.

    Raises ``GPT2FastError`` where the model gives NaN.
    """
    parts = []
    for window in windows:
        parts.append(nats_of(*rows_of(scorer, window)))
        if step is not None:
            step()
    return np.concatenate(parts) if parts else np.empty(0)


def rows_of(scorer: Scorer, window: Window) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Logits (R, V) of the counted tokens of ``window``, and those tokens (R,)."""
    read = window.tokens[:-1]
    logits = np.asarray(scorer(read), dtype=np.float32)
    if logits.ndim != 2 or len(logits) != len(read):
        raise GPT2FastError(
            f"a scorer gave logits of shape {logits.shape} for {len(read)} tokens; "
            f"({len(read)}, V) is wanted"
        )
    targets = np.asarray(window.tokens[-window.counted :], dtype=np.int64)
    return logits[-window.counted :], targets


def nats_of(logits: NDArray[np.float32], targets: NDArray[np.int64]) -> NDArray[np.float64]:
    """Nats (R,) of ``targets`` (R,) under ``logits`` (R, V)."""
    chosen = logits[np.arange(len(targets)), targets].astype(np.float64)
    nats = log_sum_exp(logits) - chosen
    check_numbers(nats)
    return nats


def log_sum_exp(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """log sum exp of each row of ``logits`` (R, V): exponentials in float32, sums in float64."""
    result = np.empty(len(logits))
    buffer = np.empty((min(ROWS, len(logits)), logits.shape[1]), dtype=np.float32)
    for start in range(0, len(logits), ROWS):
        rows = logits[start : start + ROWS]
        top = rows.max(axis=1)
        exponentials = buffer[: len(rows)]
        with np.errstate(invalid="ignore"):  # of infinities; check_numbers() tells
            np.subtract(rows, top[:, None], out=exponentials)
        np.exp(exponentials, out=exponentials)
        result[start : start + ROWS] = np.log(exponentials.sum(axis=1, dtype=np.float64)) + top
    return result


def check_numbers(values: NDArray[np.float64]) -> None:
    """Raises ``GPT2FastError`` for NaN."""
    if np.isnan(values).any():
        raise GPT2FastError(
            "the model gives NaN for this text; its weights overflow or are damaged, and no figure "
            "can be given for it"
        )
