"""The first input of a step: the embedding of each token plus that of its position."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from gpt2fast.kernels.triton.dependent import launch_dependents, wait
from gpt2fast.kernels.triton.dequantize import load_weights
from gpt2fast.kernels.triton.product import Product, Sizes
from gpt2fast.kernels.triton.variant import Variant, element


@triton.jit
def embedding_kernel(
    tokens_ptr,  # (T,)
    positions_ptr,  # (T,)
    weight_ptr,  # (V, WIDTH), or integers as in products.py
    scales_ptr,
    position_weight_ptr,  # (POSITIONS, WIDTH)
    out_ptr,  # (T, WIDTH)
    VOCABULARY: tl.constexpr,
    POSITIONS: tl.constexpr,
    WIDTH: tl.constexpr,
    BITS: tl.constexpr,
    GROUP: tl.constexpr,
    BLOCK: tl.constexpr,
    DEPENDENT: tl.constexpr,
):
    """out = weight[tokens] + position_weight[positions]. Grid (T, WIDTH / BLOCK).

    Both are brought into range: slots without a sequence have the position -1.
    """
    launch_dependents(DEPENDENT)
    row = tl.program_id(0)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < WIDTH
    wait(DEPENDENT)
    token = tl.minimum(tl.maximum(tl.load(tokens_ptr + row), 0), VOCABULARY - 1).to(tl.int64)
    position = tl.minimum(tl.maximum(tl.load(positions_ptr + row), 0), POSITIONS - 1)
    if BITS > 8:
        x = tl.load(weight_ptr + token * WIDTH + column, mask=inside, other=0.0).to(tl.float32)
    else:
        x = load_weights(weight_ptr, scales_ptr, token, column, inside, WIDTH, BITS, GROUP)
    at = position.to(tl.int64) * WIDTH + column
    x += tl.load(position_weight_ptr + at, mask=inside, other=0.0).to(tl.float32)
    to = row.to(tl.int64) * WIDTH + column
    tl.store(out_ptr + to, x.to(out_ptr.dtype.element_ty), mask=inside)


def embedding(tokens: Tensor, positions: Tensor, table: Product, position_table: Tensor) -> Tensor:
    """tokens (T,), positions (T,) int32; tables (V, C) and (P, C) -> (T, C) in the dtype of the
    latter."""
    positions_count, width = position_table.shape
    out = torch.empty(len(tokens), width, dtype=position_table.dtype, device=tokens.device)
    sizes = replace(table.sizes, norm=False)
    chosen = plan(sizes, positions_count, position_table.dtype)
    grid = (len(tokens), triton.cdiv(width, chosen.constants["BLOCK"]))
    weights = table.weight_arguments
    chosen.launch(grid, tokens.device, tokens, positions, *weights, position_table, out)
    return out


@cache
def plan(sizes: Sizes, positions: int, dtype: torch.dtype) -> Variant:
    """The kernel and its constants."""
    kind = element(dtype)
    types = {"tokens_ptr": "*i32", "positions_ptr": "*i32", **sizes.weight_types(kind)}
    types |= {"position_weight_ptr": f"*{kind}", "out_ptr": f"*{kind}"}
    constants = {
        "VOCABULARY": sizes.outputs,
        "POSITIONS": positions,
        "WIDTH": sizes.inputs,
        "BITS": sizes.bits,
        "GROUP": sizes.group,
        "BLOCK": min(triton.next_power_of_2(sizes.inputs), 512),
    }
    return Variant(f"embedding {sizes} {kind}", embedding_kernel, types, constants, 4)


def variants(width: int, dtype: str) -> Iterator[Variant]:
    """As used for a model of this width: a table of floats, and of 8-bit integers."""
    kind = getattr(torch, dtype)
    for bits, group, float8 in ((torch.finfo(kind).bits, 0, False), (8, 64, False), (8, 64, True)):
        yield plan(Sizes(width, 50257, bits, group, float8=float8), 1024, kind)
