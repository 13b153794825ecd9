"""A block's matrix product with what stands around it: LayerNorm before, bias, activation and
residual behind.

Weights are (N, K), a row for each output: a matrix-vector product then reads whole rows, and few
outputs fill a chip with programs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from gpt2fast.errors import OptionError, UnsupportedError
from gpt2fast.kernels.triton.activation import FORMULAS
from gpt2fast.kernels.triton.fused import finish, load_inputs, row_statistics
from gpt2fast.kernels.triton.variant import ELEMENTS, Variant

MATVEC_ROWS = 4  # up to so many rows each is a matrix-vector product


@triton.jit
def matvec_kernel(
    x_ptr,  # (T, K)
    weight_ptr,  # (N, K)
    bias_ptr,  # (N,)
    gain_ptr,  # (K,) of the LayerNorm
    shift_ptr,  # (K,) of the LayerNorm
    residual_ptr,  # (T, N)
    out_ptr,  # (T, N)
    rows,
    epsilon,
    K: tl.constexpr,
    N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_N: tl.constexpr,
    NORM: tl.constexpr,
    FORMULA: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
    STATISTICS_K: tl.constexpr,
):
    """out = activate(norm(x) weight^T + bias) + residual, BLOCK_N outputs of one row.

    Grid (N / BLOCK_N, T). Products and their sum in float32, without matrix units: one row would
    leave fifteen sixteenths of them idle, and the weights come no faster.
    """
    row = tl.program_id(1) + tl.arange(0, 1)
    present = row < rows
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    at = row.to(tl.int64) * K
    mean = tl.zeros((1,), tl.float32)
    scale = tl.zeros((1,), tl.float32)
    if NORM:
        mean, scale = row_statistics(x_ptr, at, present, epsilon, K, STATISTICS_K)
    acc = tl.zeros((BLOCK_N,), tl.float32)
    for start in range(0, K, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        inside = (n < N)[:, None] & (k < K)[None, :]
        where = n.to(tl.int64)[:, None] * K + k[None, :]
        weight = tl.load(weight_ptr + where, mask=inside, other=0.0)
        x = load_inputs(x_ptr, at[:, None], k[None, :], mean[:, None], scale[:, None], gain_ptr,
                        shift_ptr, K, NORM)  # fmt: skip
        acc += tl.sum(weight.to(tl.float32) * x, axis=1)
    inside = present[:, None] & (n < N)[None, :]
    finish(acc[None, :], bias_ptr, residual_ptr, out_ptr, row.to(tl.int64) * N, n, inside, N,
           FORMULA, HAS_RESIDUAL)  # fmt: skip


@triton.jit
def matmul_kernel(
    x_ptr,  # (T, K)
    weight_ptr,  # (N, K)
    bias_ptr,  # (N,)
    gain_ptr,  # (K,) of the LayerNorm
    shift_ptr,  # (K,) of the LayerNorm
    residual_ptr,  # (T, N)
    out_ptr,  # (T, N)
    rows,
    epsilon,
    K: tl.constexpr,
    N: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_N: tl.constexpr,
    NORM: tl.constexpr,
    FORMULA: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
    STATISTICS_K: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """out = activate(norm(x) weight^T + bias) + residual, a tile (BLOCK_M, BLOCK_N) a program.

    Grid (N / BLOCK_N, T / BLOCK_M). The normalized inputs are rounded to the weights' type, as a
    LayerNorm of its own would store them; sums are float32.
    """
    row = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)
    present = row < rows
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    at = tl.where(present, row, 0).to(tl.int64) * K
    mean = tl.zeros((BLOCK_M,), tl.float32)
    scale = tl.zeros((BLOCK_M,), tl.float32)
    if NORM:
        mean, scale = row_statistics(x_ptr, at, present, epsilon, K, STATISTICS_K)
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for start in range(0, K, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        inside = (k < K)[:, None] & (n < N)[None, :]
        where = k[:, None] + n.to(tl.int64)[None, :] * K
        weight = tl.load(weight_ptr + where, mask=inside, other=0.0)
        x = load_inputs(x_ptr, at[:, None], k[None, :], mean[:, None], scale[:, None], gain_ptr,
                        shift_ptr, K, NORM)  # fmt: skip
        acc = tl.dot(x.to(weight.dtype), weight, acc, input_precision=PRECISION)
    inside = present[:, None] & (n < N)[None, :]
    finish(acc, bias_ptr, residual_ptr, out_ptr, row.to(tl.int64) * N, n, inside, N, FORMULA,
           HAS_RESIDUAL)  # fmt: skip


@dataclass(frozen=True)
class LayerNorm:
    """What is applied to the inputs of a product: weight (K,), bias (K,), epsilon."""

    weight: Tensor
    bias: Tensor
    epsilon: float


def linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    norm: LayerNorm | None = None,
    activation: str = "linear",
    residual: Tensor | None = None,
) -> Tensor:
    """``activation(norm(x) @ weight.T + bias) + residual`` -> (T, N) in x's dtype.

    x (T, K), weight (N, K), bias (N,), residual (T, N), all contiguous and of one dtype; sums are
    float32. Raises UnsupportedError for an activation that has no kernel.
    """
    check_activation(activation)
    (rows, inputs), outputs = x.shape, weight.shape[0]
    if weight.shape[1] != inputs or bias.shape != (outputs,):
        raise OptionError(
            f"x {tuple(x.shape)}, weight {tuple(weight.shape)} and bias {tuple(bias.shape)} do not "
            "fit: (T, K), (N, K) and (N,) are needed"
        )
    case = Case(inputs, outputs, norm is not None, activation, residual is not None)
    return launch(case.plan(rows, x.dtype), x, (weight,), bias, norm, residual)


def launch(
    plan: Variant,
    x: Tensor,
    weights: tuple[Tensor, ...],
    bias: Tensor,
    norm: LayerNorm | None,
    residual: Tensor | None,
) -> Tensor:
    """The product that ``plan`` is for; ``weights``: the kernel's arguments between x and bias."""
    rows, outputs = len(x), len(bias)
    out = torch.empty(rows, outputs, dtype=x.dtype, device=x.device)
    if rows == 0:
        return out
    constants = plan.constants
    grid = (
        triton.cdiv(outputs, constants["BLOCK_N"]),
        triton.cdiv(rows, constants.get("BLOCK_M", 1)),
    )
    plan.kernel[grid](
        x,
        *weights,
        bias,
        bias if norm is None else norm.weight,
        bias if norm is None else norm.bias,
        out if residual is None else residual,
        out,
        rows,
        0.0 if norm is None else norm.epsilon,
        **constants,
        num_warps=plan.num_warps,
        num_stages=plan.num_stages,
    )
    return out


def check_activation(name: str) -> None:
    """Raises UnsupportedError for an activation that has no kernel."""
    if name not in FORMULAS:
        raise UnsupportedError(
            f'activation_function "{name}" has no GPU kernel; use device="torch:cuda"'
        )


@dataclass(frozen=True)
class Case:
    """One product of a model, for any number of rows."""

    inputs: int
    outputs: int
    norm: bool = False
    activation: str = "linear"
    residual: bool = False

    def plan(self, rows: int, dtype: torch.dtype) -> Variant:
        """The kernel and its constants for so many rows."""
        element = ELEMENTS[str(dtype).removeprefix("torch.")]
        common = {
            "K": self.inputs,
            "N": self.outputs,
            "NORM": self.norm,
            "FORMULA": FORMULAS[self.activation],
            "HAS_RESIDUAL": self.residual,
            "STATISTICS_K": min(triton.next_power_of_2(self.inputs), 1024),
        }
        pointers = ("x", "weight", "bias", "gain", "shift", "residual", "out")
        types = dict.fromkeys((f"{name}_ptr" for name in pointers), f"*{element}")
        types |= {"rows": "i32", "epsilon": "fp32"}
        name = f"{self} {element} {'matvec' if rows <= MATVEC_ROWS else 'matmul'} {rows}"
        if rows <= MATVEC_ROWS:
            # 8 KB of weights in flight for each program.
            block_k = min(triton.next_power_of_2(self.inputs), 1024)
            block_n = max(1, 4096 // block_k)
            blocks = {"BLOCK_K": block_k, "BLOCK_N": block_n}
            return Variant(name, matvec_kernel, types, common | blocks, num_warps=4)
        is_float32 = dtype == torch.float32
        if rows <= 64:  # the weights are read once: as many programs as outputs allow
            block_m = max(16, triton.next_power_of_2(rows))
            blocks = {"BLOCK_M": block_m, "BLOCK_K": 32 if is_float32 else 128, "BLOCK_N": 16}
            warps, stages = 8 if block_m > 32 else 4, 2 if is_float32 else 3
        elif is_float32:
            blocks, warps, stages = {"BLOCK_M": 64, "BLOCK_K": 16, "BLOCK_N": 64}, 8, 2
        else:
            blocks, warps, stages = {"BLOCK_M": 128, "BLOCK_K": 64, "BLOCK_N": 128}, 8, 3
        constants = common | blocks | {"PRECISION": "ieee"}
        constants["STATISTICS_K"] = min(constants["STATISTICS_K"], 64)
        return Variant(name, matmul_kernel, types, constants, warps, stages)


def cases(width: int, inner: int) -> Iterator[Case]:
    """The products of a block."""
    yield Case(width, 3 * width, norm=True)
    yield Case(width, width, residual=True)
    yield Case(width, inner, norm=True, activation="gelu_new")
    yield Case(inner, width, residual=True)


def variants(width: int, inner: int, dtype: str) -> Iterator[Variant]:
    """As used for a model of these sizes: one row, a small batch, a prompt."""
    for case in cases(width, inner):
        for rows in (1, 16, 64, 512):
            yield case.plan(rows, getattr(torch, dtype))
