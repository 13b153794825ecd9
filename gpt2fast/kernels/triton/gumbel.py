"""Choosing tokens at random as the largest of logits with noise on them (Gumbel-max), which needs
no sum over the vocabulary and can be split over programs.

The noise of a token is a pure function of (seed, stream, draw, token): what shares a batch, and
which kernel draws, make no difference.
"""

from __future__ import annotations

import triton
import triton.language as tl

NO_TOKEN = tl.constexpr(0x7FFFFFFF)


@triton.jit
def gumbel(token, draw, stream, seed_low, seed_high):
    """Gumbel noise of the shape of ``token`` (int32); the others broadcast to it.

    -log(E) of an exponential variable E, from Philox4x32-10 (Salmon et al. 2011): of each 64
    tokens, token i has the word i // 16 of the counter (i % 16 of those 64, draw, stream, 0), as in
    ``csrc/kernels/philox.h``, where one evaluation serves four tokens. What matters is where E is
    small: a uniform variable near 0, which float32 resolves finely, is turned into it, and not one
    near 1.
    """
    zero = token * 0
    counter = (token >> 6) * 16 + (token & 15)
    word = (token >> 4) & 3
    first, second, third, fourth = tl.philox_impl(
        counter.to(tl.uint32),
        (zero + draw).to(tl.uint32),
        (zero + stream).to(tl.uint32),
        zero.to(tl.uint32),
        (zero + seed_low).to(tl.uint32),
        (zero + seed_high).to(tl.uint32),
    )
    low = tl.where(word == 0, first, second)
    bits = tl.where(word < 2, low, tl.where(word == 2, third, fourth))
    uniform = tl.minimum((bits.to(tl.float32) + 0.5) * 2.3283064365386963e-10, 0.99999994)
    series = uniform * (1.0 + uniform * (0.5 + uniform * 0.33333333))
    exponential = tl.where(uniform < 0.01, series, -tl.log(1.0 - uniform))
    return -tl.log(exponential)


@triton.jit
def perturb(logits, token, temperature, draw, stream, seed_low, seed_high):
    """Logits in float32 -> what the chosen token has the largest of; of one row, or of a tile if
    the row's values have the shape (R, 1). A logit that is not a number is the largest."""
    logits = tl.where(logits != logits, float("inf"), logits)
    noise = gumbel(token, draw, stream, seed_low, seed_high)
    drawn = logits / tl.maximum(temperature, 1e-30) + noise
    return tl.where(temperature > 0.0, drawn, logits)


@triton.jit
def largest(values, token):
    """Along the last axis of (R, N): the largest value and its token, the first of equals."""
    most = tl.max(values, axis=1)
    return most, tl.min(tl.where(values == most[:, None], token, NO_TOKEN), axis=1)


@triton.jit
def checked(most, token):
    """The token, or -1 where its value says that no logit, or too large a one, was a number."""
    is_number = (most < float("inf")) & (most > float("-inf"))
    return tl.where(is_number, token, -1)
