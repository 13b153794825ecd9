"""LayerNorm over rows, after the residual addition that comes before it."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from gpt2fast.kernels.triton.dependent import launch_dependents, wait
from gpt2fast.kernels.triton.variant import Variant, element


@triton.jit
def normalize(x, inside, width, epsilon):
    """(x - mean) / sqrt(var + epsilon) of rows x (R, C) in float32; zero where not ``inside``.

    NaN for rows whose squares overflow: 1 / sqrt of infinity would make zeros of them.
    """
    mean = tl.sum(x, axis=1) / width
    centred = tl.where(inside, x - mean[:, None], 0.0)
    variance = tl.sum(centred * centred, axis=1) / width
    variance += variance - variance
    return centred * tl.rsqrt(variance + epsilon)[:, None]


@triton.jit(do_not_specialize=["rows"])
def layer_norm_kernel(
    x_ptr,  # (T, WIDTH)
    residual_ptr,  # (T, WIDTH), or x again
    weight_ptr,  # (WIDTH,)
    bias_ptr,  # (WIDTH,)
    sum_ptr,  # (T, WIDTH): x + residual
    out_ptr,  # (T, WIDTH)
    rows,
    epsilon,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,  # the power of two that holds WIDTH
    ROWS: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
    DEPENDENT: tl.constexpr,
):
    """sum = x + residual; out = (sum - mean) / sqrt(var + epsilon) * weight + bias.

    Grid (T / ROWS): each program normalizes ROWS rows, which it holds in registers throughout.
    """
    launch_dependents(DEPENDENT)
    wait(DEPENDENT)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, BLOCK)
    inside = (row < rows)[:, None] & (column < WIDTH)[None, :]
    at = row.to(tl.int64)[:, None] * WIDTH + column[None, :]
    x = tl.load(x_ptr + at, mask=inside, other=0.0).to(tl.float32)
    if HAS_RESIDUAL:
        x += tl.load(residual_ptr + at, mask=inside, other=0.0).to(tl.float32)
        # What goes on is the sum as it is stored, here as in the next layer.
        rounded = x.to(sum_ptr.dtype.element_ty)
        tl.store(sum_ptr + at, rounded, mask=inside)
        x = rounded.to(tl.float32)
    weight = tl.load(weight_ptr + column, mask=column < WIDTH, other=0.0).to(tl.float32)
    bias = tl.load(bias_ptr + column, mask=column < WIDTH, other=0.0).to(tl.float32)
    out = normalize(x, inside, WIDTH, epsilon) * weight[None, :] + bias[None, :]
    tl.store(out_ptr + at, out.to(out_ptr.dtype.element_ty), mask=inside)


def layer_norm(
    x: Tensor, weight: Tensor, bias: Tensor, epsilon: float, residual: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """``x + residual`` and its LayerNorm (Ba et al. 2016), both (T, C) in x's dtype.

    x, residual (T, C), contiguous; weight, bias (C,). Without a residual the first result is x.
    Sums are taken in float32.
    """
    rows, width = x.shape
    out = torch.empty_like(x)
    total = x if residual is None else torch.empty_like(x)
    chosen = plan(width, residual is not None, x.dtype)
    inputs = (x, x if residual is None else residual, weight, bias)
    grid = (triton.cdiv(rows, chosen.constants["ROWS"]),)
    chosen.launch(grid, x.device, *inputs, total, out, rows, epsilon)
    return total, out


@cache
def plan(width: int, has_residual: bool, dtype: torch.dtype) -> Variant:
    """The kernel and its constants: two thousand values or one row a program, 16 a thread."""
    kind = element(dtype)
    names = ("x_ptr", "residual_ptr", "weight_ptr", "bias_ptr", "sum_ptr", "out_ptr")
    types = dict.fromkeys(names, f"*{kind}") | {"rows": "i32", "epsilon": "fp32"}
    block = triton.next_power_of_2(width)
    rows = max(1, 2048 // block)
    warps = min(max(rows * block // 512, 1), 16)
    constants = {"WIDTH": width, "BLOCK": block, "ROWS": rows, "HAS_RESIDUAL": has_residual}
    name = f"layer_norm {width} {kind} residual={has_residual}"
    return Variant(name, layer_norm_kernel, types, constants, warps)


def variants(width: int, dtype: str) -> Iterator[Variant]:
    """As used for a model of this width."""
    for has_residual in (False, True):
        yield plan(width, has_residual, getattr(torch, dtype))
