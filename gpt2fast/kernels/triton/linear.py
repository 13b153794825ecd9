"""A block's matrix product with what stands around it: LayerNorm before, bias, activation and
residual behind.

Weights are (N, K), a row for each output: a matrix-vector product then reads whole rows, and few
outputs fill a chip with programs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from gpt2fast.errors import OptionError, UnsupportedError
from gpt2fast.kernels.triton.activation import FORMULAS, activate
from gpt2fast.kernels.triton.dependent import let_next_start, wait_for_previous
from gpt2fast.kernels.triton.dequantize import dequantize
from gpt2fast.kernels.triton.product import (
    MATVEC_ROWS,
    Constants,
    Product,
    Sizes,
    row_class,
    sizes_of,
)
from gpt2fast.kernels.triton.products import matmul, matvec, row_statistics
from gpt2fast.kernels.triton.quantized_weight import QuantizedWeight
from gpt2fast.kernels.triton.variant import Variant, element

MOST_SMALL_ROWS = 64  # beyond, small weights are made floats first


@triton.jit
def finish(acc, bias_ptr, residual_ptr, out_ptr, at, n, inside, N: tl.constexpr,
           FORMULA: tl.constexpr, HAS_RESIDUAL: tl.constexpr):  # fmt: skip
    """out = activate(acc + bias) + residual for outputs n of the rows that begin at ``at``."""
    acc += tl.load(bias_ptr + n, mask=n < N, other=0.0)[None, :]
    acc = activate(acc, FORMULA)
    to = at[:, None] + n[None, :]
    if HAS_RESIDUAL:
        acc += tl.load(residual_ptr + to, mask=inside, other=0.0).to(tl.float32)
    tl.store(out_ptr + to, acc.to(out_ptr.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["rows"])
def matvec_kernel(
    x_ptr,  # (T, K)
    weight_ptr,  # see products.py
    scales_ptr,
    gain_ptr,  # (K,) of the LayerNorm
    column_sums_ptr,  # (N,) float32: sum_k w[n, k] gain[k]
    bias_ptr,  # (N,) float32
    residual_ptr,  # (T, N)
    out_ptr,  # (T, N)
    rows,
    epsilon,
    K: tl.constexpr,
    N: tl.constexpr,
    BITS: tl.constexpr,
    GROUP: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_N: tl.constexpr,
    NORM: tl.constexpr,
    FORMULA: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
    STATISTICS_K: tl.constexpr,
    DEPENDENT: tl.constexpr,
):
    """out = activate(norm(x) weight^T + bias) + residual, BLOCK_N outputs of one row.

    Grid (N / BLOCK_N, T).
    """
    let_next_start(DEPENDENT)
    row = tl.program_id(1).to(tl.int64) + tl.arange(0, 1)
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    x = x_ptr + tl.program_id(1).to(tl.int64) * K
    acc = matvec(x, weight_ptr, scales_ptr, gain_ptr, n, K, N, BITS, GROUP, BLOCK_K, BLOCK_N, NORM,
                 DEPENDENT)[None, :]  # fmt: skip
    if NORM:
        mean, scale = row_statistics(x_ptr, row * K, row < rows, epsilon, K, STATISTICS_K)
        sums = tl.load(column_sums_ptr + n, mask=n < N, other=0.0)
        acc = (acc - mean[:, None] * sums[None, :]) * scale[:, None]
    inside = (row < rows)[:, None] & (n < N)[None, :]
    finish(acc, bias_ptr, residual_ptr, out_ptr, row * N, n, inside, N, FORMULA, HAS_RESIDUAL)


@triton.jit(do_not_specialize=["rows"])
def matmul_kernel(
    x_ptr,  # (T, K)
    weight_ptr,  # see products.py
    scales_ptr,
    gain_ptr,  # (K,) of the LayerNorm
    column_sums_ptr,  # as in matvec_kernel; not used
    bias_ptr,  # (N,) float32
    residual_ptr,  # (T, N)
    out_ptr,  # (T, N)
    rows,
    epsilon,
    K: tl.constexpr,
    N: tl.constexpr,
    BITS: tl.constexpr,
    GROUP: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_N: tl.constexpr,
    NORM: tl.constexpr,
    FORMULA: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
    STATISTICS_K: tl.constexpr,
    PRECISION: tl.constexpr,
    DEPENDENT: tl.constexpr,
):
    """out = activate(norm(x) weight^T + bias) + residual, a tile (BLOCK_M, BLOCK_N) a program.

    Grid (N / BLOCK_N, T / BLOCK_M). The normalized inputs are rounded to the inputs' type, as a
    LayerNorm of its own would store them; sums are float32.
    """
    let_next_start(DEPENDENT)
    row = tl.program_id(1).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    present = row < rows
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    at = tl.where(present, row, 0) * K
    mean = tl.zeros((BLOCK_M,), tl.float32)
    scale = tl.zeros((BLOCK_M,), tl.float32)
    wait_for_previous(DEPENDENT)
    if NORM:
        mean, scale = row_statistics(x_ptr, at, present, epsilon, K, STATISTICS_K)
    acc = matmul(x_ptr, at, mean, scale, weight_ptr, scales_ptr, gain_ptr, n, K, N, BITS, GROUP,
                 BLOCK_M, BLOCK_K, BLOCK_N, NORM, PRECISION)  # fmt: skip
    inside = present[:, None] & (n < N)[None, :]
    finish(acc, bias_ptr, residual_ptr, out_ptr, row * N, n, inside, N, FORMULA, HAS_RESIDUAL)


def linear(
    x: Tensor, product: Product, *, activation: str = "linear", residual: Tensor | None = None
) -> Tensor:
    """``activation(norm(x) @ weight.T + bias) + residual`` -> (T, N) in x's dtype.

    x (T, K), residual (T, N), contiguous and of the dtype of LayerNorm and of weights in floating
    point; sums are float32. One launch, and one more for many rows over small weights. Raises
    UnsupportedError for an activation that has no kernel.
    """
    check_activation(activation)
    sizes = product.sizes
    if x.shape[1] != sizes.inputs:
        raise OptionError(
            f"x {tuple(x.shape)} does not fit weights of {sizes.outputs} outputs and "
            f"{sizes.inputs} inputs"
        )
    rows, weights = len(x), product.weight_arguments
    if isinstance(product.weight, QuantizedWeight) and rows > MOST_SMALL_ROWS:
        floats = dequantize(product.weight, x.dtype)
        sizes, weights = sizes_of(floats, product.norm), (floats, floats)
    out = torch.empty(rows, sizes.outputs, dtype=x.dtype, device=x.device)
    chosen = plan(sizes, activation, residual is not None, rows, x.dtype)
    grid = (
        triton.cdiv(sizes.outputs, chosen.constants["BLOCK_N"]),
        triton.cdiv(rows, chosen.constants.get("BLOCK_M", 1)),
    )
    chosen.launch(
        grid,
        x.device,
        x,
        *weights,
        product.gain,
        product.column_sums,
        product.bias,
        out if residual is None else residual,
        out,
        rows,
        product.epsilon,
    )
    return out


def check_activation(name: str) -> None:
    """Raises UnsupportedError for an activation that has no kernel."""
    if name not in FORMULAS:
        raise UnsupportedError(
            f'activation_function "{name}" has no GPU kernel; use device="torch:cuda"'
        )


def plan(sizes: Sizes, activation: str, residual: bool, rows: int, dtype: torch.dtype) -> Variant:
    """The kernel and its constants for so many rows."""
    return _plan(sizes, activation, residual, row_class(rows), dtype)


@cache
def _plan(sizes: Sizes, activation: str, residual: bool, rows: int, dtype: torch.dtype) -> Variant:
    kind = element(dtype)
    pointer = f"*{kind}"
    types = {"x_ptr": pointer, **sizes.weight_types(kind), "gain_ptr": pointer}
    types |= {"column_sums_ptr": "*fp32", "bias_ptr": "*fp32"}
    types |= {"residual_ptr": pointer, "out_ptr": pointer, "rows": "i32", "epsilon": "fp32"}
    common: Constants = {"FORMULA": FORMULAS[activation], "HAS_RESIDUAL": residual}
    common |= sizes.constants
    name = f"linear {sizes} {activation} {kind} {rows}"
    if rows <= MATVEC_ROWS:
        blocks, warps = sizes.matvec_blocks()
        return Variant(name, matvec_kernel, types, common | blocks, warps)
    blocks, warps, stages = sizes.matmul_blocks(rows, dtype)
    return Variant(name, matmul_kernel, types, common | blocks, warps, stages)


def variants(width: int, inner: int, dtype: str) -> Iterator[Variant]:
    """As used for a block of these sizes: one row, batches, a prompt; floats and integers."""
    kind = getattr(torch, dtype)
    floats = (torch.finfo(kind).bits, 0)
    # ``LLM`` has 16-bit activations where weights are small; float32 beside integers is for tests.
    forms = (
        floats,
        (8, 64),
        (4, 64),
        (4, 128),
        *([(8, 64, True)] if kind != torch.float32 else []),
    )
    for bits, group, *float8 in forms:
        form = Sizes(0, 0, bits, group, float8=bool(float8))
        for rows in (1, 16, 64, 128) if not group else (1, 16, 64):
            for inputs, outputs, norm, activation, residual in (
                (width, 3 * width, True, "linear", False),
                (width, width, False, "linear", True),
                (width, inner, True, "gelu_new", False),
                (inner, width, False, "linear", True),
            ):
                sizes = replace(form, inputs=inputs, outputs=outputs, norm=norm)
                yield plan(sizes, activation, residual, rows, kind)
