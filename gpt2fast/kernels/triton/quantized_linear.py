"""``linear`` over weights stored as 8-bit or 4-bit integers, a scale for each output and group.

Activations stay in floating point: on a GPU integers save bytes, and bytes are what few rows wait
for.

The integers are those of ``reference.quantize_matrix``. 8 bits: int8 (N, G * group), zero behind K.
4 bits: a byte holds input j of a group's first half, plus 8, in its low half, and input j of the
second half in its high half: uint8 (N, G * group / 2), so that both halves of a byte meet runs of
inputs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from gpt2fast.errors import OptionError
from gpt2fast.kernels import reference
from gpt2fast.kernels.triton.activation import FORMULAS
from gpt2fast.kernels.triton.fused import finish, load_inputs, row_statistics
from gpt2fast.kernels.triton.linear import (
    MATVEC_ROWS,
    Case,
    LayerNorm,
    cases,
    check_activation,
    launch,
)
from gpt2fast.kernels.triton.variant import ELEMENTS, Variant


@dataclass(frozen=True)
class QuantizedWeight:
    """A matrix (N, K): ``integers`` as above, ``scales`` (N, G) bfloat16."""

    integers: Tensor
    scales: Tensor
    inputs: int
    bits: int
    group: int

    @classmethod
    def from_float(cls, weight: Tensor, bits: int, group: int) -> QuantizedWeight:
        """Weights (N, K) to nearest, as the CPU runner rounds them."""
        integers, scales = reference.quantize_matrix(weight.float(), f"int{bits}", group)
        outputs, inputs = integers.shape
        integers = F.pad(integers, (0, -inputs % group)).to(torch.int8)
        if bits == 4:
            halves = (integers.view(outputs, -1, 2, group // 2) + 8).to(torch.uint8)
            integers = (halves[:, :, 0] | halves[:, :, 1] << 4).flatten(1)
        return cls(integers.contiguous(), scales.bfloat16(), inputs, bits, group)


@triton.jit
def split_bytes(stored, BITS: tl.constexpr):
    """The first and the second half of a group's weights from its bytes, in float32; of 8-bit
    weights, all of them twice."""
    if BITS == 8:
        first = stored.to(tl.float32)
        second = first
    else:
        first = (stored & 15).to(tl.float32) - 8.0
        second = (stored >> 4).to(tl.float32) - 8.0
    return first, second


@triton.jit
def quantized_matvec_kernel(
    x_ptr,  # (T, K)
    weight_ptr,  # (N, GROUPS * BYTES)
    scales_ptr,  # (N, GROUPS)
    bias_ptr,  # (N,)
    gain_ptr,  # (K,) of the LayerNorm
    shift_ptr,  # (K,) of the LayerNorm
    residual_ptr,  # (T, N)
    out_ptr,  # (T, N)
    rows,
    epsilon,
    K: tl.constexpr,
    N: tl.constexpr,
    BITS: tl.constexpr,
    GROUPS: tl.constexpr,
    BYTES: tl.constexpr,  # of a group
    BLOCK_G: tl.constexpr,
    BLOCK_N: tl.constexpr,
    NORM: tl.constexpr,
    FORMULA: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
    STATISTICS_K: tl.constexpr,
):
    """out = activate(norm(x) weight^T + bias) + residual, BLOCK_N outputs of one row.

    Grid (N / BLOCK_N, T). BLOCK_G groups at a time: (BLOCK_N, BLOCK_G, BYTES) bytes, summed over
    each group before the group's scale is applied.
    """
    row = tl.program_id(1) + tl.arange(0, 1)
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    at = row.to(tl.int64) * K
    mean = tl.zeros((1,), tl.float32)
    scale = tl.zeros((1,), tl.float32)
    if NORM:
        mean, scale = row_statistics(x_ptr, at, row < rows, epsilon, K, STATISTICS_K)
    at, mean, scale = at[:, None], mean[:, None], scale[:, None]
    acc = tl.zeros((BLOCK_N,), tl.float32)
    j = tl.arange(0, BYTES)
    for start in range(0, GROUPS, BLOCK_G):
        g = start + tl.arange(0, BLOCK_G)
        inside = (n < N)[:, None] & (g < GROUPS)[None, :]
        byte = (n.to(tl.int64)[:, None] * GROUPS + g[None, :])[:, :, None] * BYTES + j[
            None, None, :
        ]
        stored = tl.load(weight_ptr + byte, mask=inside[:, :, None], other=0)
        steps = tl.load(scales_ptr + n[:, None] * GROUPS + g[None, :], mask=inside, other=0.0)
        first, second = split_bytes(stored, BITS)
        # An input of a group that is not there meets a scale of zero.
        k = g[:, None] * (BYTES * 8 // BITS) + j[None, :]
        x = load_inputs(x_ptr, at, k, mean, scale, gain_ptr, shift_ptr, K, NORM)
        product = first * x[None, :, :]
        if BITS == 4:
            x = load_inputs(x_ptr, at, k + BYTES, mean, scale, gain_ptr, shift_ptr, K, NORM)
            product += second * x[None, :, :]
        acc += tl.sum(tl.sum(product, axis=2) * steps.to(tl.float32), axis=1)
    inside = (row < rows)[:, None] & (n < N)[None, :]
    finish(acc[None, :], bias_ptr, residual_ptr, out_ptr, row.to(tl.int64) * N, n, inside, N,
           FORMULA, HAS_RESIDUAL)  # fmt: skip


@triton.jit
def quantized_matmul_kernel(
    x_ptr,  # (T, K)
    weight_ptr,  # (N, GROUPS * BYTES)
    scales_ptr,  # (N, GROUPS)
    bias_ptr,  # (N,)
    gain_ptr,  # (K,) of the LayerNorm
    shift_ptr,  # (K,) of the LayerNorm
    residual_ptr,  # (T, N)
    out_ptr,  # (T, N)
    rows,
    epsilon,
    K: tl.constexpr,
    N: tl.constexpr,
    BITS: tl.constexpr,
    GROUPS: tl.constexpr,
    BYTES: tl.constexpr,  # of a group
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    NORM: tl.constexpr,
    FORMULA: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
    STATISTICS_K: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """out = activate(norm(x) weight^T + bias) + residual, a tile (BLOCK_M, BLOCK_N) a program.

    Grid (N / BLOCK_N, T / BLOCK_M). A group at a time on the matrix units, its integers as they are
    in the inputs' type, which holds them exactly; then its scale, in float32.
    """
    row = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)
    present = row < rows
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    at = tl.where(present, row, 0).to(tl.int64) * K
    mean = tl.zeros((BLOCK_M,), tl.float32)
    scale = tl.zeros((BLOCK_M,), tl.float32)
    if NORM:
        mean, scale = row_statistics(x_ptr, at, present, epsilon, K, STATISTICS_K)
    at, mean, scale = at[:, None], mean[:, None], scale[:, None]
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    j = tl.arange(0, BYTES)
    kind = x_ptr.dtype.element_ty
    for g in range(0, GROUPS):
        byte = (n.to(tl.int64)[None, :] * GROUPS + g) * BYTES + j[:, None]
        stored = tl.load(weight_ptr + byte, mask=(n < N)[None, :], other=0)
        step = tl.load(scales_ptr + n * GROUPS + g, mask=n < N, other=0.0).to(tl.float32)
        first, second = split_bytes(stored, BITS)
        k = (g * (BYTES * 8 // BITS) + j)[None, :]
        x = load_inputs(x_ptr, at, k, mean, scale, gain_ptr, shift_ptr, K, NORM)
        part = tl.dot(x.to(kind), first.to(kind), input_precision=PRECISION)
        if BITS == 4:
            x = load_inputs(x_ptr, at, k + BYTES, mean, scale, gain_ptr, shift_ptr, K, NORM)
            part = tl.dot(x.to(kind), second.to(kind), part, input_precision=PRECISION)
        acc += part * step[None, :]
    inside = present[:, None] & (n < N)[None, :]
    finish(acc, bias_ptr, residual_ptr, out_ptr, row.to(tl.int64) * N, n, inside, N, FORMULA,
           HAS_RESIDUAL)  # fmt: skip


def quantized_linear(
    x: Tensor,
    weight: QuantizedWeight,
    bias: Tensor,
    *,
    norm: LayerNorm | None = None,
    activation: str = "linear",
    residual: Tensor | None = None,
) -> Tensor:
    """``activation(norm(x) @ weight.T + bias) + residual`` -> (T, N) in x's dtype.

    x (T, K), bias (N,), residual (T, N), contiguous and of one dtype; sums are float32. Raises
    UnsupportedError for an activation that has no kernel.
    """
    check_activation(activation)
    (rows, inputs), outputs = x.shape, len(weight.integers)
    if weight.inputs != inputs or bias.shape != (outputs,):
        raise OptionError(
            f"x {tuple(x.shape)}, weights of {outputs} outputs and {weight.inputs} inputs and bias "
            f"{tuple(bias.shape)} do not fit: (T, K), N, K and (N,) are needed"
        )
    case = Case(inputs, outputs, norm is not None, activation, residual is not None)
    chosen = plan(case, weight.bits, weight.group, rows, x.dtype)
    return launch(chosen, x, (weight.integers, weight.scales), bias, norm, residual)


def plan(case: Case, bits: int, group: int, rows: int, dtype: torch.dtype) -> Variant:
    """The kernel and its constants for so many rows."""
    element = ELEMENTS[str(dtype).removeprefix("torch.")]
    pointer = f"*{element}"
    types = {"x_ptr": pointer, "weight_ptr": "*i8" if bits == 8 else "*u8", "scales_ptr": "*bf16"}
    names = ("bias_ptr", "gain_ptr", "shift_ptr", "residual_ptr", "out_ptr")
    types |= dict.fromkeys(names, pointer) | {"rows": "i32", "epsilon": "fp32"}
    groups, size = -(-case.inputs // group), group * bits // 8
    constants = {
        "K": case.inputs,
        "N": case.outputs,
        "BITS": bits,
        "GROUPS": groups,
        "BYTES": size,
        "NORM": case.norm,
        "FORMULA": FORMULAS[case.activation],
        "HAS_RESIDUAL": case.residual,
    }
    name = f"{case} int{bits}-g{group} {element} {rows}"
    if rows <= MATVEC_ROWS:
        block_g = min(triton.next_power_of_2(groups), max(1, 1024 // size))
        constants |= {"BLOCK_G": block_g, "BLOCK_N": max(1, 4096 // (block_g * size))}
        constants["STATISTICS_K"] = min(triton.next_power_of_2(case.inputs), 1024)
        # Half as many values a thread where each takes a register of its own.
        warps = 8 if dtype == torch.float32 else 4
        return Variant(name, quantized_matvec_kernel, types, constants, warps)
    # Products of float32 are not for the matrix units: their operands wait in registers.
    most = 16 if dtype == torch.float32 else 64
    block_m = min(max(16, triton.next_power_of_2(rows)), most)
    constants |= {"BLOCK_M": block_m, "BLOCK_N": 32, "STATISTICS_K": 64, "PRECISION": "ieee"}
    return Variant(name, quantized_matmul_kernel, types, constants, 4, 2)


def variants(width: int, inner: int, dtype: str) -> Iterator[Variant]:
    """As used for a model of these sizes: one row, and a batch."""
    for case in cases(width, inner):
        for bits, group in ((8, 64), (4, 64), (4, 128)):
            for rows in (1, 16, 64):
                yield plan(case, bits, group, rows, getattr(torch, dtype))
