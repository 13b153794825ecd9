"""A block's matrix product with what stands around it: LayerNorm before, bias, activation and
residual behind.

Weights are (N, K), a row for each output: a matrix-vector product then reads whole rows, and few
outputs fill a chip with programs.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from gpt2fast.errors import OptionError, UnsupportedError
from gpt2fast.kernels.triton.activation import FORMULAS, activate
from gpt2fast.kernels.triton.dependent import launch_dependents, wait
from gpt2fast.kernels.triton.many_rows import float_weight, normalized
from gpt2fast.kernels.triton.product import MATVEC_ROWS, Constants, Product, Sizes
from gpt2fast.kernels.triton.products import matvec
from gpt2fast.kernels.triton.variant import Variant, element


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
    DEPENDENT: tl.constexpr,
):
    """out = activate(norm(x) weight^T + bias) + residual, BLOCK_N outputs of one row.

    Grid (N / BLOCK_N, T).
    """
    launch_dependents(DEPENDENT)
    row = tl.program_id(1).to(tl.int64) + tl.arange(0, 1)
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    x = x_ptr + tl.program_id(1).to(tl.int64) * K
    acc = matvec(x, weight_ptr, scales_ptr, gain_ptr, column_sums_ptr, epsilon, n, K, N, BITS,
                 GROUP, BLOCK_K, BLOCK_N, NORM, DEPENDENT)[None, :]  # fmt: skip
    inside = (row < rows)[:, None] & (n < N)[None, :]
    finish(acc, bias_ptr, residual_ptr, out_ptr, row * N, n, inside, N, FORMULA, HAS_RESIDUAL)


@triton.jit(do_not_specialize=["rows"])
def finish_kernel(
    product_ptr,  # (T, N); becomes the result
    bias_ptr,  # (N,) float32
    residual_ptr,  # (T, N)
    rows,
    N: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    FORMULA: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
    DEPENDENT: tl.constexpr,
):
    """product = activate(product + bias) + residual. Grid (N / BLOCK_N, T / BLOCK_M)."""
    launch_dependents(DEPENDENT)
    row = tl.program_id(1).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    inside = (row < rows)[:, None] & (n < N)[None, :]
    wait(DEPENDENT)
    acc = tl.load(product_ptr + row[:, None] * N + n[None, :], mask=inside, other=0.0)
    finish(acc.to(tl.float32), bias_ptr, residual_ptr, product_ptr, row * N, n, inside, N, FORMULA,
           HAS_RESIDUAL)  # fmt: skip


def linear(
    x: Tensor, product: Product, *, activation: str = "linear", residual: Tensor | None = None
) -> Tensor:
    """``activation(norm(x) @ weight.T + bias) + residual`` -> (T, N) in x's dtype.

    x (T, K), residual (T, N), contiguous and of the dtype of LayerNorm and of weights in floating
    point; sums are float32. One launch for up to MATVEC_ROWS rows. Raises UnsupportedError for an
    activation that has no kernel.
    """
    check_activation(activation)
    sizes = product.sizes
    if x.shape[1] != sizes.inputs:
        raise OptionError(
            f"x {tuple(x.shape)} does not fit weights of {sizes.outputs} outputs and "
            f"{sizes.inputs} inputs"
        )
    if len(x) > MATVEC_ROWS:
        return _many_rows(x, product, activation, residual)
    out = torch.empty(len(x), sizes.outputs, dtype=x.dtype, device=x.device)
    chosen = plan(sizes, activation, residual is not None, x.dtype)
    inputs = (x, *product.weight_arguments, product.gain, product.column_sums, product.bias)
    results = (out if residual is None else residual, out)
    grid = (triton.cdiv(sizes.outputs, chosen.constants["BLOCK_N"]), len(x))
    chosen.launch(grid, x.device, *inputs, *results, len(x), product.epsilon)
    return out


def _many_rows(x: Tensor, product: Product, activation: str, residual: Tensor | None) -> Tensor:
    """``linear`` for rows that share what is read of the weights: LayerNorm, weights that are small
    as floats, and torch's product, each a launch."""
    out = torch.mm(normalized(x, product), float_weight(product, x.dtype).T)
    outputs = product.sizes.outputs
    chosen = finish_plan(outputs, activation, residual is not None, x.dtype)
    blocks = chosen.constants
    grid = (triton.cdiv(outputs, blocks["BLOCK_N"]), triton.cdiv(len(x), blocks["BLOCK_M"]))
    beside = out if residual is None else residual
    chosen.launch(grid, x.device, out, product.bias, beside, len(x))
    return out


def check_activation(name: str) -> None:
    """Raises UnsupportedError for an activation that has no kernel."""
    if name not in FORMULAS:
        raise UnsupportedError(
            f'activation_function "{name}" has no GPU kernel; use device="torch:cuda"'
        )


@cache
def plan(sizes: Sizes, activation: str, residual: bool, dtype: torch.dtype) -> Variant:
    """The kernel of few rows and its constants."""
    kind = element(dtype)
    pointer = f"*{kind}"
    types = {"x_ptr": pointer, **sizes.weight_types(kind), "gain_ptr": pointer}
    types |= {"column_sums_ptr": "*fp32", "bias_ptr": "*fp32"}
    types |= {"residual_ptr": pointer, "out_ptr": pointer, "rows": "i32", "epsilon": "fp32"}
    constants: Constants = {"FORMULA": FORMULAS[activation], "HAS_RESIDUAL": residual}
    blocks, warps = sizes.matvec_blocks()
    name = f"linear {sizes} {activation} {kind}"
    constants |= sizes.constants | blocks
    # Two long rows: the compiler aims at 48 on sm_80 and spills; four programs may have 64 each.
    registers = {80: 64} if sizes.bits == 16 and warps == 8 else {}
    return Variant(name, matvec_kernel, types, constants, warps, 1, registers)


@cache
def finish_plan(outputs: int, activation: str, residual: bool, dtype: torch.dtype) -> Variant:
    """What stands behind a product of many rows: two thousand values a program, 16 a thread."""
    kind = element(dtype)
    types = {"product_ptr": f"*{kind}", "bias_ptr": "*fp32", "residual_ptr": f"*{kind}"}
    block_n = min(triton.next_power_of_2(outputs), 512)
    constants: Constants = {"N": outputs, "BLOCK_M": max(1, 2048 // block_n), "BLOCK_N": block_n}
    constants |= {"FORMULA": FORMULAS[activation], "HAS_RESIDUAL": residual}
    name = f"finish {outputs} {activation} {kind}"
    return Variant(name, finish_kernel, types | {"rows": "i32"}, constants, 4)


def variants(width: int, inner: int, dtype: str) -> Iterator[Variant]:
    """As used for a block of these sizes: few rows and many, floats and integers."""
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
    products = (
        (width, 3 * width, True, "linear", False),
        (width, width, False, "linear", True),
        (width, inner, True, "gelu_new", False),
        (inner, width, False, "linear", True),
    )
    for inputs, outputs, norm, activation, residual in products:
        yield finish_plan(outputs, activation, residual, kind)
        for bits, group, *float8 in forms:
            sizes = Sizes(inputs, outputs, bits, group, norm, bool(float8))
            yield plan(sizes, activation, residual, kind)
