"""Choosing tokens as the Triton kernels do, in plain numpy: noise, filters, the largest."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
_MASK = np.uint64(0xFFFFFFFF)


def philox4x32(counter: list[NDArray[np.uint64]], key: tuple[int, int]) -> NDArray[np.uint64]:
    """The first word of Philox4x32-10 (Salmon et al. 2011)."""
    c0, c1, c2, c3 = counter
    k0, k1 = (np.uint64(k) for k in key)
    for _ in range(10):
        high, low = np.uint64(0xD2511F53) * c0, np.uint64(0xCD9E8D57) * c2
        c0, c1, c2, c3 = (
            (low >> np.uint64(32)) ^ c1 ^ k0,
            low & _MASK,
            (high >> np.uint64(32)) ^ c3 ^ k1,
            high & _MASK,
        )
        k0, k1 = (k0 + np.uint64(0x9E3779B9)) & _MASK, (k1 + np.uint64(0xBB67AE85)) & _MASK
    return c0


def noise(vocabulary: int, seed: int, stream: int, draw: int) -> Floats:
    """Gumbel noise of every token, in double precision."""
    token = np.arange(vocabulary, dtype=np.uint64)
    counter = [token, token * 0 + np.uint64(draw), token * 0 + np.uint64(stream), token * 0]
    bits = philox4x32(counter, (seed & 0xFFFFFFFF, seed >> 32))
    return -np.log(-np.log1p(-np.minimum((bits + 0.5) * 2.0**-32, 0.99999994)))


def kept(logits: Floats, temperature: float, top_k: int, top_p: float, min_p: float) -> Floats:
    """``logits`` with -inf where a filter leaves them out; ties with the last one kept stay."""
    logits = logits.copy()
    if 0 < top_k < len(logits):
        logits[logits < np.sort(logits)[-top_k]] = -np.inf
    weights = np.exp((logits - logits.max()) / temperature)
    bound = 0.0
    if top_p < 1.0:
        descending = np.sort(weights)[::-1]
        bound = descending[np.searchsorted(np.cumsum(descending), top_p * weights.sum())]
    logits[weights < max(bound, min_p)] = -np.inf
    return logits


def margin(scores: Floats) -> float:
    """How far the best is ahead."""
    second, best = np.partition(scores, len(scores) - 2)[-2:]
    return float(best - second)
