"""What the matrix products share: LayerNorm of their inputs, and what is done to their sums."""

from __future__ import annotations

import triton
import triton.language as tl

from gpt2fast.kernels.triton.activation import activate


@triton.jit
def row_statistics(x_ptr, at, present, epsilon, K: tl.constexpr, BLOCK_K: tl.constexpr):
    """Mean and 1 / sqrt(var + epsilon), both (R,), of the rows that begin at ``at`` (R,).

    Two passes, the second over what the first has left in the cache: the variance of differences
    from the mean loses nothing where the mean is large.
    """
    total = tl.zeros(at.shape, tl.float32)
    for start in range(0, K, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        inside = present[:, None] & (k < K)[None, :]
        x = tl.load(x_ptr + at[:, None] + k[None, :], mask=inside, other=0.0)
        total += tl.sum(x.to(tl.float32), axis=1)
    mean = total / K
    squares = tl.zeros(at.shape, tl.float32)
    for start in range(0, K, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        inside = present[:, None] & (k < K)[None, :]
        x = tl.load(x_ptr + at[:, None] + k[None, :], mask=inside, other=0.0).to(tl.float32)
        centred = tl.where(inside, x - mean[:, None], 0.0)
        squares += tl.sum(centred * centred, axis=1)
    return mean, tl.rsqrt(squares / K + epsilon)


@triton.jit
def load_inputs(x_ptr, at, k, mean, scale, gain_ptr, shift_ptr, K: tl.constexpr,
                      NORM: tl.constexpr):  # fmt: skip
    """Inputs k, of any shape, of the rows that begin at ``at``, of a shape to match; normalized if
    NORM; float32, zero behind K. ``mean`` and ``scale`` have the shape of ``at``."""
    x = tl.load(x_ptr + at + k, mask=k < K, other=0.0).to(tl.float32)
    if NORM:
        gain = tl.load(gain_ptr + k, mask=k < K, other=0.0).to(tl.float32)
        shift = tl.load(shift_ptr + k, mask=k < K, other=0.0).to(tl.float32)
        x = (x - mean) * scale * gain + shift
    return x


@triton.jit
def finish(acc, bias_ptr, residual_ptr, out_ptr, at, n, inside, N: tl.constexpr,
           FORMULA: tl.constexpr, HAS_RESIDUAL: tl.constexpr):  # fmt: skip
    """out = activate(acc + bias) + residual for outputs n of the rows that begin at ``at``."""
    acc += tl.load(bias_ptr + n, mask=n < N, other=0.0).to(tl.float32)[None, :]
    acc = activate(acc, FORMULA)
    to = at[:, None] + n[None, :]
    if HAS_RESIDUAL:
        acc += tl.load(residual_ptr + to, mask=inside, other=0.0).to(tl.float32)
    tl.store(out_ptr + to, acc.to(out_ptr.dtype.element_ty), mask=inside)
