"""Whether windows of text repeat passages of other text: token by token, whatever file they are in.

A passage is a run of n tokens; runs are compared by hashes of 64 bits. Shapes: N windows, T tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

PASSAGE = 32  # tokens: shorter runs recur in any text
_ROWS = 1 << 16  # passages hashed at a time


def repeats(
    windows: NDArray[np.integer[Any]], seen: Sequence[NDArray[np.integer[Any]]], n: int = PASSAGE
) -> NDArray[np.bool_]:
    """Which of the ``windows`` (N, T) have a run of ``n`` tokens (all of them, where T is less)
    that is in one of the pieces ``seen`` (any length) too: (N,)."""
    n = min(n, windows.shape[1])
    parts = [_hashes(piece, n) for piece in seen if len(piece) >= n]
    if not parts or not len(windows):
        return np.zeros(len(windows), np.bool_)
    known = np.unique(np.concatenate(parts))
    found: NDArray[np.bool_] = np.array([np.isin(_hashes(row, n), known).any() for row in windows])
    return found


def _hashes(tokens: NDArray[np.integer[Any]], n: int) -> NDArray[np.uint64]:
    """One for each run of ``n`` tokens: a sum of products modulo 2^64 with odd random factors."""
    factors = np.random.default_rng(n).integers(2**64, size=n, dtype=np.uint64) | np.uint64(1)
    runs = sliding_window_view(tokens.astype(np.uint64) + np.uint64(1), n)
    found = np.empty(len(runs), np.uint64)
    for start in range(0, len(runs), _ROWS):
        found[start : start + _ROWS] = (runs[start : start + _ROWS] * factors).sum(axis=1)
    return found
