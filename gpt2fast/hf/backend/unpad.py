"""Unpadding: which tokens of a padded batch are real, and whether a runner can run them.

transformers pads a batch to a rectangle; a runner has sequences of different lengths, whose
positions count from their first token. Shapes: B sequences, S new columns, P cached columns, T = P
+ S."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

TokenIds = NDArray[np.int64]


@dataclass(frozen=True)
class Unpadding:
    """The range of real tokens of each sequence within the S new columns."""

    first: NDArray[np.int64]  # (B,): column of the first one
    counts: NDArray[np.int64]  # (B,)


def unpad(
    shape: tuple[int, int],
    mask: TokenIds | None,
    positions: TokenIds | None,
    starts: NDArray[np.int64],
    cached: NDArray[np.int64],
    past: int,
) -> Unpadding | str:
    """The unpadding of a call with input ids of ``shape`` (B, S), or why it must run in torch.

    Args:
        shape: (B, S).
        mask: the attention mask (B, T).
        positions: position ids, (B, S) or (1, S).
        starts: (B,), column of each sequence's first token in the cache.
        cached: (B,), number of each sequence's tokens in the cache.
        past: P.
    """
    batch, new = shape
    if mask is None:
        mask = np.ones((batch, past + new), np.int64)
    if mask.shape != (batch, past + new):
        return f"the attention mask is {mask.shape}, not {(batch, past + new)}"
    attended = mask != 0
    if not np.array_equal(attended[:, :past], range_mask(starts, cached, past)):
        return "the attention mask is not that of the tokens in the cache"
    total = attended.sum(axis=1)
    begin = np.where(total > 0, attended.argmax(axis=1), past + new)
    if not np.array_equal(attended, range_mask(begin, total, past + new)):
        return "the attention mask has holes"
    counts = attended[:, past:].sum(axis=1)
    first = np.maximum(begin - past, 0)
    expected = np.arange(past, past + new) - begin[:, None]
    actual = np.arange(past, past + new)[None] if positions is None else positions
    if bool(((actual != expected) & attended[:, past:]).any()):
        return "positions do not count from each sequence's first token (give position_ids)"
    return Unpadding(first, counts)


def range_mask(start: NDArray[np.int64], count: NDArray[np.int64], width: int) -> NDArray[np.bool_]:
    """(B, width): True in the ``count`` (B,) columns from ``start`` (B,) on."""
    column = np.arange(width)
    return (column >= start[:, None]) & (column < (start + count)[:, None])
