"""The phases of a matrix product: sums over the inputs, for one row or a tile of rows, with weights
in floating point or as integers (``QuantizedWeight``); LayerNorm of the inputs.

BITS 16 and 32: weights (N, K) of that type. BITS 8 and 4: integers, or floats of 8 bits,
(N, G * BYTES), scales (N, G).

LayerNorm's shift is in the bias of a product already. A single row is normalized after the product:
sum_k w[k] gain[k] (x[k] - mean) / s = (sum_k w[k] gain[k] x[k] - mean sum_k w[k] gain[k]) / s, the
last sum being a constant of the matrix: a value of x then takes one multiplication. Rows for the
matrix units are normalized before, since they are rounded to the weights' type, which a value that
is not normalized can exceed.
"""

from __future__ import annotations

import triton
import triton.language as tl

from gpt2fast.kernels.triton.dependent import wait


@triton.jit
def add_inputs(x, k, shift, total, squares, K: tl.constexpr):
    """Sums of the inputs ``k`` less ``shift``, and of their squares, with those of x added."""
    centred = tl.where(k < K, x - shift, 0.0)
    return total + centred, squares + centred * centred


@triton.jit
def add_both(a, b, c, d):
    """For two sums at a time."""
    return a + c, b + d


@triton.jit
def statistics_of(shift, total, squares, epsilon, K: tl.constexpr):
    """Mean and 1 / sqrt(var + epsilon) of a row whose inputs less ``shift`` were summed.

    Where ``shift`` is one of the K inputs, the square of its distance from the mean is at most K
    times the variance: what the difference below loses is a few units in float32. NaN where the
    squares overflow, which the maximum would hide.
    """
    total, squares = tl.reduce((tl.ravel(total), tl.ravel(squares)), 0, add_both)
    mean = total / K
    variance = tl.maximum(squares / K - mean * mean, 0.0) + (squares - squares)
    return shift + mean, tl.rsqrt(variance + epsilon)


@triton.jit
def load_inputs(x_ptr, k, K: tl.constexpr):
    """Inputs k, of any shape, of one row: float32, 0 behind K."""
    return tl.load(x_ptr + k, mask=k < K, other=0.0).to(tl.float32)


@triton.jit
def load_gain(gain_ptr, k, K: tl.constexpr):
    """LayerNorm's gain for the inputs k: float32."""
    return tl.load(gain_ptr + k, mask=k < K, other=0.0).to(tl.float32)


@triton.jit
def matvec(
    x_ptr,  # of the row
    weight_ptr,
    scales_ptr,
    gain_ptr,
    column_sums_ptr,
    epsilon,
    n,  # (BLOCK_N,) outputs
    K: tl.constexpr,
    N: tl.constexpr,
    BITS: tl.constexpr,
    GROUP: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_N: tl.constexpr,
    NORM: tl.constexpr,
    DEPENDENT: tl.constexpr,
):
    """sum_k w[n, k] x[k], x normalized if NORM: float32 (BLOCK_N,). Waits for the kernel before."""
    if BITS > 8:
        sums, shift, total, squares = float_matvec(
            x_ptr, weight_ptr, gain_ptr, n, K, N, BLOCK_K, BLOCK_N, NORM, DEPENDENT
        )
    else:
        sums, shift, total, squares = integer_matvec(
            x_ptr, weight_ptr, scales_ptr, gain_ptr, n, K, N, BITS, GROUP, BLOCK_K, BLOCK_N, NORM,
            DEPENDENT,
        )  # fmt: skip
    if NORM:
        mean, scale = statistics_of(shift, total, squares, epsilon, K)
        columns = tl.load(column_sums_ptr + n, mask=n < N, other=0.0)
        sums = (sums - mean * columns) * scale
    return sums


@triton.jit
def float_matvec(x_ptr, weight_ptr, gain_ptr, n, K: tl.constexpr, N: tl.constexpr,
                 BLOCK_K: tl.constexpr, BLOCK_N: tl.constexpr, NORM: tl.constexpr,
                 DEPENDENT: tl.constexpr):  # fmt: skip
    """The sums of ``matvec`` over floating-point weights before they are normalized, and what
    ``statistics_of`` takes. Products and sums in float32, without matrix units: one row would leave
    fifteen sixteenths of them idle, and the weights come no faster."""
    k = tl.arange(0, BLOCK_K)
    weights = weight_ptr + n.to(tl.int64)[:, None] * K
    inside = (n < N)[:, None]
    # Asked for before the wait, and always one tile ahead.
    weight = tl.load(weights + k[None, :], mask=inside & (k < K)[None, :], other=0.0)
    wait(DEPENDENT)
    acc = tl.zeros((BLOCK_N, BLOCK_K), tl.float32)
    total, squares = tl.zeros((BLOCK_K,), tl.float32), tl.zeros((BLOCK_K,), tl.float32)
    shift = tl.load(x_ptr).to(tl.float32)
    for start in range(0, K, BLOCK_K):
        here = start + k
        x = load_inputs(x_ptr, here, K)
        ahead = here + BLOCK_K
        following = tl.load(weights + ahead[None, :], mask=inside & (ahead < K)[None, :], other=0.0)
        if NORM:
            total, squares = add_inputs(x, here, shift, total, squares, K)
            x *= load_gain(gain_ptr, here, K)
        acc += weight.to(tl.float32) * x[None, :]
        weight = following
    return tl.sum(acc, axis=1), shift, total, squares


@triton.jit
def integer_matvec(x_ptr, weight_ptr, scales_ptr, gain_ptr, n, K: tl.constexpr, N: tl.constexpr,
                   BITS: tl.constexpr, GROUP: tl.constexpr, BLOCK_K: tl.constexpr,
                   BLOCK_N: tl.constexpr, NORM: tl.constexpr, DEPENDENT: tl.constexpr):  # fmt: skip
    """``float_matvec`` over small weights: (BLOCK_N, chunks, 16 bytes) at a time. A chunk is what a
    thread loads at once, and lies in one group: its sum and the scale take no other thread."""
    GROUPS: tl.constexpr = (K + GROUP - 1) // GROUP
    BYTES: tl.constexpr = GROUP * BITS // 8
    CHUNKS: tl.constexpr = GROUPS * BYTES // 16
    BLOCK_C: tl.constexpr = BLOCK_K * BITS // 128
    c, j = tl.arange(0, BLOCK_C), tl.arange(0, 16)
    inside = (n < N)[:, None]
    weights = weight_ptr + (n.to(tl.int64) * (GROUPS * BYTES))[:, None, None] + j[None, None, :]
    scales = scales_ptr + (n.to(tl.int64) * GROUPS)[:, None]
    there = inside & (c < CHUNKS)[None, :]
    stored = tl.load(weights + (c * 16)[None, :, None], mask=there[:, :, None], other=0.0)
    steps = tl.load(scales + (c * 16 // BYTES)[None, :], mask=there, other=0.0)
    wait(DEPENDENT)
    acc = tl.zeros((BLOCK_N, BLOCK_C), tl.float32)
    total, squares = tl.zeros((BLOCK_C, 16), tl.float32), tl.zeros((BLOCK_C, 16), tl.float32)
    shift = tl.load(x_ptr).to(tl.float32)
    for start in range(0, CHUNKS, BLOCK_C):
        byte = (start + c) * 16
        k = (byte // BYTES * GROUP + byte % BYTES)[:, None] + j[None, :]
        # Without the axis of the outputs: the compiler then brings the inputs into the layout of
        # the weights, and not the weights, through shared memory, into that of the inputs.
        x = load_inputs(x_ptr, k, K)
        ahead = start + BLOCK_C + c
        there = inside & (ahead < CHUNKS)[None, :]
        following = tl.load(
            weights + (ahead * 16)[None, :, None], mask=there[:, :, None], other=0.0
        )
        following_steps = tl.load(scales + (ahead * 16 // BYTES)[None, :], mask=there, other=0.0)
        if NORM:
            total, squares = add_inputs(x, k, shift, total, squares, K)
            x *= load_gain(gain_ptr, k, K)
        if BITS == 8:
            sums = tl.sum(stored.to(tl.float32) * x[None, :, :], axis=2)
        else:
            y = load_inputs(x_ptr, k + BYTES, K)
            if NORM:
                total, squares = add_inputs(y, k + BYTES, shift, total, squares, K)
                y *= load_gain(gain_ptr, k + BYTES, K)
            # The four bits, at the head of a float's fraction, make it 1 + (w + 8) / 16: two
            # operations, where a conversion alone costs as much.
            wide = stored.to(tl.uint32)
            first = ((wide << 19) & 0x780000 | 0x3F800000).to(tl.float32, bitcast=True)
            second = ((wide << 15) & 0x780000 | 0x3F800000).to(tl.float32, bitcast=True)
            sums = tl.sum(first * x[None, :, :] + second * y[None, :, :], axis=2)
            sums = (sums - 1.5 * tl.sum(x + y, axis=1)[None, :]) * 16.0
        acc += sums * steps.to(tl.float32)
        stored, steps = following, following_steps
    return tl.sum(acc, axis=1), shift, total, squares


@triton.jit
def matmul(
    x_ptr,
    at,  # (BLOCK_M,) where the rows begin
    weight_ptr,
    scales_ptr,
    n,  # (BLOCK_N,) outputs
    K: tl.constexpr,
    N: tl.constexpr,
    BITS: tl.constexpr,
    GROUP: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_N: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """sum_k x[m, k] w[n, k] on the matrix units: float32 (BLOCK_M, BLOCK_N)."""
    if BITS > 8:
        acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
        for start in range(0, K, BLOCK_K):
            k = start + tl.arange(0, BLOCK_K)
            inside = (k < K)[:, None] & (n < N)[None, :]
            where = k[:, None] + n.to(tl.int64)[None, :] * K
            weight = tl.load(weight_ptr + where, mask=inside, other=0.0)
            x = tl.load(x_ptr + at[:, None] + k[None, :], mask=(k < K)[None, :], other=0.0)
            acc = tl.dot(x, weight, acc, input_precision=PRECISION)
    else:
        acc = integer_matmul(x_ptr, at, weight_ptr, scales_ptr, n, K, N, BITS, GROUP, BLOCK_M,
                             BLOCK_N, PRECISION)  # fmt: skip
    return acc


@triton.jit
def integer_matmul(x_ptr, at, weight_ptr, scales_ptr, n, K: tl.constexpr, N: tl.constexpr,
                   BITS: tl.constexpr, GROUP: tl.constexpr, BLOCK_M: tl.constexpr,
                   BLOCK_N: tl.constexpr, PRECISION: tl.constexpr):  # fmt: skip
    """``matmul`` over integers: a group at a time, its integers as they are in the inputs' type,
    which holds them exactly; then its scale, in float32."""
    GROUPS: tl.constexpr = (K + GROUP - 1) // GROUP
    BYTES: tl.constexpr = GROUP * BITS // 8
    kind = x_ptr.dtype.element_ty
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    j = tl.arange(0, BYTES)
    for g in range(0, GROUPS):
        byte = (n.to(tl.int64)[None, :] * GROUPS + g) * BYTES + j[:, None]
        stored = tl.load(weight_ptr + byte, mask=(n < N)[None, :], other=0.0)
        step = tl.load(scales_ptr + n * GROUPS + g, mask=n < N, other=0.0).to(tl.float32)
        k = g * GROUP + j
        x = tl.load(x_ptr + at[:, None] + k[None, :], mask=(k < K)[None, :], other=0.0)
        if BITS == 8:
            part = tl.dot(x, stored.to(tl.float32).to(kind), input_precision=PRECISION)
        else:
            k += BYTES
            y = tl.load(x_ptr + at[:, None] + k[None, :], mask=(k < K)[None, :], other=0.0)
            low = ((stored & 15).to(tl.float32) - 8.0).to(kind)
            high = ((stored >> 4).to(tl.float32) - 8.0).to(kind)
            part = tl.dot(x, low, input_precision=PRECISION)
            part = tl.dot(y, high, part, input_precision=PRECISION)
        acc += part * step[None, :]
    return acc
