"""Choosing tokens in plain numpy, in double precision: noise, filters, the largest. What the C++
sampler and the Triton kernels choose is held against this."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from gpt2fast.sampling_params import SamplingParams

Floats = NDArray[np.float64]
_MASK = np.uint64(0xFFFFFFFF)


def philox4x32(counter: list[NDArray[np.uint64]], key: tuple[int, int]) -> list[NDArray[np.uint64]]:
    """The four words of Philox4x32-10 (Salmon et al. 2011)."""
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
    return [c0, c1, c2, c3]


def noise(vocabulary: int, seed: int, stream: int, draw: int) -> Floats:
    """Gumbel noise of every token, in double precision."""
    token = np.arange(vocabulary)
    # Of each 64 tokens, token i has the word i // 16 of the counter i % 16.
    number = (token // 64 * 16 + token % 16).astype(np.uint64)
    zero = number * np.uint64(0)
    words = philox4x32(
        [number, zero + np.uint64(draw), zero + np.uint64(stream), zero],
        (seed & 0xFFFFFFFF, seed >> 32),
    )
    bits = np.choose(token // 16 % 4, words).astype(np.float64)
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


def process(
    logits: NDArray[np.float32],
    params: SamplingParams,
    tokens: Sequence[int],
    num_prompt: int,
    banned: Sequence[int] = (),
) -> NDArray[np.float32]:
    """``logits`` (V,) after bias, penalties over ``tokens`` (prompt, then output) and the ban of
    tokens before ``min_tokens``."""
    logits = logits.copy()
    for token, bias in (params.logit_bias or {}).items():
        logits[token] += np.float32(bias)
    penalty = np.float32(params.repetition_penalty)
    for token in set(tokens):
        logits[token] = logits[token] * penalty if logits[token] < 0 else logits[token] / penalty
    output = list(tokens[num_prompt:])
    for token in set(output):
        frequency = params.frequency_penalty * output.count(token)
        logits[token] -= np.float32(params.presence_penalty + frequency)
    if len(output) < params.min_tokens:
        logits[list(banned)] = -np.inf
    return logits


def choose(
    logits: NDArray[np.float32], params: SamplingParams, seed: int, stream: int, draw: int
) -> int:
    """The token of processed ``logits`` (V,)."""
    if params.temperature == 0.0:
        return int(logits.argmax())
    wide, warm = logits.astype(np.float64), float(np.float32(max(params.temperature, 1e-30)))
    left = kept(wide, warm, params.top_k, float(np.float32(params.top_p)), params.min_p)
    return int(((left - wide.max()) / warm + noise(len(wide), seed, stream, draw)).argmax())
