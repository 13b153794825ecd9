"""Small weights as floats, for products of more than a few rows: writing them out once costs less
than widening them again in every tile."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from gpt2fast.kernels.triton.dependent import launch_dependents, wait
from gpt2fast.kernels.triton.product import Sizes, sizes_of
from gpt2fast.kernels.triton.quantized_weight import QuantizedWeight
from gpt2fast.kernels.triton.variant import Variant, element


@triton.jit
def load_weights(weight_ptr, scales_ptr, row, column, inside, K: tl.constexpr, BITS: tl.constexpr,
                 GROUP: tl.constexpr):  # fmt: skip
    """Weights (row, column) of a matrix of K inputs, in float32; ``row`` is a scalar."""
    GROUPS: tl.constexpr = (K + GROUP - 1) // GROUP
    BYTES: tl.constexpr = GROUP * BITS // 8
    group = row * GROUPS + column // GROUP
    within = column % GROUP
    stored = tl.load(weight_ptr + group * BYTES + within % BYTES, mask=inside, other=0.0)
    if BITS == 4:
        stored = tl.where(within < BYTES, stored & 15, stored >> 4).to(tl.int8) - 8
    step = tl.load(scales_ptr + group, mask=inside, other=0.0).to(tl.float32)
    return stored.to(tl.float32) * step


@triton.jit
def dequantize_kernel(
    weight_ptr,  # (N, G * bytes of a group)
    scales_ptr,  # (N, G)
    out_ptr,  # (N, K)
    K: tl.constexpr,
    BITS: tl.constexpr,
    GROUP: tl.constexpr,
    BLOCK: tl.constexpr,
    DEPENDENT: tl.constexpr,
):
    """out = integers * scales. Grid (N, K / BLOCK)."""
    launch_dependents(DEPENDENT)
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < K
    values = load_weights(weight_ptr, scales_ptr, row, column, inside, K, BITS, GROUP)
    wait(DEPENDENT)
    tl.store(out_ptr + row * K + column, values.to(out_ptr.dtype.element_ty), mask=inside)


def dequantize(weight: QuantizedWeight, dtype: torch.dtype) -> Tensor:
    """The values (N, K), rounded to ``dtype``."""
    outputs, inputs = weight.shape
    out = torch.empty(outputs, inputs, dtype=dtype, device=weight.scales.device)
    chosen = plan(sizes_of(weight), dtype)
    grid = (outputs, triton.cdiv(inputs, chosen.constants["BLOCK"]))
    chosen.launch(grid, out.device, weight.integers, weight.scales, out)
    return out


@cache
def plan(sizes: Sizes, dtype: torch.dtype) -> Variant:
    """The kernel and its constants."""
    kind = element(dtype)
    types = {**sizes.weight_types(kind), "out_ptr": f"*{kind}"}
    block = min(triton.next_power_of_2(sizes.inputs), 1024)
    constants = {"K": sizes.inputs, "BITS": sizes.bits, "GROUP": sizes.group, "BLOCK": block}
    return Variant(f"dequantize {sizes} {kind}", dequantize_kernel, types, constants, 4)


def variants(width: int, dtype: str) -> Iterator[Variant]:
    """As used for a model of this width."""
    for bits, group, float8 in ((8, 64, False), (4, 64, False), (4, 128, False), (8, 64, True)):
        for inputs in (width, 4 * width):
            yield plan(Sizes(inputs, width, bits, group, float8=float8), getattr(torch, dtype))
