"""Which tokens of a call of ``forward`` are real, and whether a runner can run them.

transformers pads a batch to a rectangle; a runner has sequences of their own lengths, whose
positions count from their first token. Shapes: B sequences, S new columns, P columns in the cache,
T = P + S.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]


@dataclass(frozen=True)
class Plan:
    """Of each sequence: the first of its new tokens among the S columns, and how many there are."""

    first: NDArray[np.int64]  # (B,)
    counts: NDArray[np.int64]  # (B,)


def make_plan(
    shape: tuple[int, int],
    mask: Ids | None,
    positions: Ids | None,
    starts: NDArray[np.int64],
    cached: NDArray[np.int64],
    past: int,
) -> Plan | str:
    """The plan of a call with input ids of ``shape`` (B, S), or why it has to run in torch.

    ``mask`` is (B, T), ``positions`` (B, S) or (1, S). Of what the cache holds, ``starts`` (B,) are
    the columns of the first tokens, ``cached`` (B,) how many there are, and ``past`` is P.
    """
    batch, new = shape
    if mask is None:
        mask = np.ones((batch, past + new), np.int64)
    if mask.shape != (batch, past + new):
        return f"the attention mask is {mask.shape}, not {(batch, past + new)}"
    seen = mask != 0
    if not np.array_equal(seen[:, :past], columns(starts, cached, past)):
        return "the attention mask is not that of the tokens in the cache"
    total = seen.sum(axis=1)
    begin = np.where(total > 0, seen.argmax(axis=1), past + new)
    if not np.array_equal(seen, columns(begin, total, past + new)):
        return "the attention mask has holes"
    counts = seen[:, past:].sum(axis=1)
    first = np.maximum(begin - past, 0)
    wanted = np.arange(past, past + new) - begin[:, None]
    given = np.arange(past, past + new)[None] if positions is None else positions
    if bool(((given != wanted) & seen[:, past:]).any()):
        return "positions do not count from each sequence's first token (give position_ids)"
    return Plan(first, counts)


def columns(start: NDArray[np.int64], count: NDArray[np.int64], width: int) -> NDArray[np.bool_]:
    """(B, width): whether a column is one of the ``count`` (B,) from ``start`` (B,) on."""
    at = np.arange(width)
    return (at >= start[:, None]) & (at < (start + count)[:, None])
