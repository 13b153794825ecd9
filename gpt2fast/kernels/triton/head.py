"""The head: logits of the rows that are sampled, or in one launch the tokens chosen from them.

Each program has some of the vocabulary. It writes its logits, or the best of them once noise is
added (``gumbel.py``); the last program to arrive picks the best of all and makes it the next input.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from gpt2fast.kernels.triton.choose import choose_among_tiles, last_to_arrive, leave_best
from gpt2fast.kernels.triton.dependent import launch_dependents, wait
from gpt2fast.kernels.triton.many_rows import normalized
from gpt2fast.kernels.triton.product import MATVEC_ROWS, Constants, Product, Sizes
from gpt2fast.kernels.triton.products import matmul, matvec
from gpt2fast.kernels.triton.row_state import FIELDS, MOST_STEPS
from gpt2fast.kernels.triton.variant import Variant, element

# Rows of a tile on the matrix units. Each class is a kernel more to compile; the noise of a tile of
# more than 64 would not fit into the registers.
MATMUL_ROWS = (16, 64)


@triton.jit(do_not_specialize=["rows", "capacity"])
def head_matvec_kernel(
    x_ptr,  # (T, K)
    picked_ptr,  # (R,): the rows of x whose logits are wanted
    weight_ptr,  # see products.py
    scales_ptr,
    gain_ptr,  # (K,) of the LayerNorm
    column_sums_ptr,  # (N,) float32
    bias_ptr,  # (N,) float32
    logits_ptr,  # (R, N) float32
    state_ptr,  # (FIELDS, capacity)
    best_ptr,  # (R, TILES) float32
    best_token_ptr,  # (R, TILES)
    arrived_ptr,  # (R,) zeros
    history_ptr,  # (R, MOST_STEPS)
    rows,
    capacity,
    epsilon,
    K: tl.constexpr,
    N: tl.constexpr,
    BITS: tl.constexpr,
    GROUP: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_N: tl.constexpr,
    NORM: tl.constexpr,
    DRAWS: tl.constexpr,
    TILES: tl.constexpr,
    BLOCK_T: tl.constexpr,
    MOST_STEPS: tl.constexpr,
    DEPENDENT: tl.constexpr,
):
    """logits = norm(x[picked]) weight^T + bias, or the tokens chosen from them if DRAWS.

    Grid (N / BLOCK_N, R). The counters are left at zero for the next launch.
    """
    launch_dependents(DEPENDENT)
    row = tl.program_id(1) + tl.arange(0, 1)
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    # The plan of a step is the host's, and no kernel writes it.
    at = tl.load(picked_ptr + row).to(tl.int64) * K
    x = x_ptr + tl.sum(at, axis=0)
    acc = matvec(x, weight_ptr, scales_ptr, gain_ptr, column_sums_ptr, epsilon, n, K, N, BITS,
                 GROUP, BLOCK_K, BLOCK_N, NORM, DEPENDENT)[None, :]  # fmt: skip
    acc += tl.load(bias_ptr + n, mask=n < N, other=0.0)[None, :]
    inside = (row < rows)[:, None] & (n < N)[None, :]
    if DRAWS:
        leave_best(acc, row, row < rows, n, inside, state_ptr, capacity, best_ptr, best_token_ptr,
                   TILES)  # fmt: skip
        if last_to_arrive(arrived_ptr + tl.program_id(1), TILES):
            choose_among_tiles(row, row < rows, state_ptr, capacity, best_ptr, best_token_ptr,
                               history_ptr, 1, TILES, BLOCK_T, MOST_STEPS)  # fmt: skip
            tl.store(arrived_ptr + tl.program_id(1), 0)
    else:
        tl.store(logits_ptr + row.to(tl.int64)[:, None] * N + n[None, :], acc, mask=inside)


@triton.jit(do_not_specialize=["rows", "capacity"])
def head_matmul_kernel(
    x_ptr,  # (R, K), normalized
    weight_ptr,  # see products.py
    scales_ptr,
    bias_ptr,  # (N,) float32
    logits_ptr,  # (R, N) float32
    state_ptr,  # (FIELDS, capacity)
    best_ptr,  # (R, TILES) float32
    best_token_ptr,  # (R, TILES)
    arrived_ptr,  # (R / BLOCK_M,) zeros
    history_ptr,  # (R, MOST_STEPS)
    rows,
    capacity,
    K: tl.constexpr,
    N: tl.constexpr,
    BITS: tl.constexpr,
    GROUP: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_N: tl.constexpr,
    PRECISION: tl.constexpr,
    DRAWS: tl.constexpr,
    TILES: tl.constexpr,
    BLOCK_T: tl.constexpr,
    MOST_STEPS: tl.constexpr,
    DEPENDENT: tl.constexpr,
):
    """logits = x weight^T + bias, or the tokens chosen from them if DRAWS, a tile a program.

    Grid (N / BLOCK_N, R / BLOCK_M). The counters are left at zero for the next launch.
    """
    launch_dependents(DEPENDENT)
    row = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)
    present = row < rows
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    at = tl.where(present, row, 0).to(tl.int64) * K
    wait(DEPENDENT)
    acc = matmul(x_ptr, at, weight_ptr, scales_ptr, n, K, N, BITS, GROUP, BLOCK_M, BLOCK_K, BLOCK_N,
                 PRECISION)  # fmt: skip
    acc += tl.load(bias_ptr + n, mask=n < N, other=0.0)[None, :]
    inside = present[:, None] & (n < N)[None, :]
    if DRAWS:
        leave_best(acc, row, present, n, inside, state_ptr, capacity, best_ptr, best_token_ptr,
                   TILES)  # fmt: skip
        if last_to_arrive(arrived_ptr + tl.program_id(1), TILES):
            choose_among_tiles(row, present, state_ptr, capacity, best_ptr, best_token_ptr,
                               history_ptr, BLOCK_M, TILES, BLOCK_T, MOST_STEPS)  # fmt: skip
            tl.store(arrived_ptr + tl.program_id(1), 0)
    else:
        tl.store(logits_ptr + row.to(tl.int64)[:, None] * N + n[None, :], acc, mask=inside)


class Choice:
    """Where the head leaves the tokens that it chooses, for up to ``rows`` sequences at a time.

    Attributes:
        state: (FIELDS, capacity) int32, see ``row_state``.
        history: (capacity, MOST_STEPS) int32: the tokens chosen, -1 where logits were no numbers.
    """

    def __init__(self, rows: int, sizes: Sizes, dtype: torch.dtype, device: torch.device) -> None:
        self.capacity = max(64, int(triton.next_power_of_2(rows)))
        self.state = torch.zeros(FIELDS, self.capacity, dtype=torch.int32, device=device)
        self.history = torch.zeros(self.capacity, MOST_STEPS, dtype=torch.int32, device=device)
        bests = 0
        for most in (MATVEC_ROWS, *MATMUL_ROWS, self.capacity):
            bests = max(bests, most * plan(sizes, True, most, dtype).constants["TILES"])
        self.best = torch.empty(bests, device=device)
        self.best_token = torch.empty(bests, dtype=torch.int32, device=device)
        self.arrived = torch.zeros(self.capacity, dtype=torch.int32, device=device)


def head_logits(x: Tensor, picked: Tensor, product: Product) -> Tensor:
    """Logits (R, V) in float32 of the rows ``picked`` (R,) int32 of x (T, C)."""
    out = torch.empty(len(picked), product.sizes.outputs, device=x.device)
    nothing = picked  # arguments that are not used
    _launch(x, picked, product, False, (out, nothing, out, nothing, nothing, nothing), 0)
    return out


def head_choose(x: Tensor, picked: Tensor, product: Product, choice: Choice) -> None:
    """Choose a token from each of the rows ``picked`` (R,) int32 of x (T, C), as the fields of the
    first R slots of ``choice`` say (filters left aside), and advance them."""
    parts = (choice.state, choice.best, choice.best_token, choice.arrived, choice.history)
    _launch(x, picked, product, True, (choice.best, *parts), choice.capacity)


def _launch(
    x: Tensor,
    picked: Tensor,
    product: Product,
    draws: bool,
    results: tuple[Tensor, ...],
    capacity: int,
) -> None:
    rows, sizes = len(picked), product.sizes
    chosen = plan(sizes, draws, rows, x.dtype)
    weights = product.weight_arguments
    tiles, shift = chosen.constants["TILES"], (product.bias, *results)
    if rows <= MATVEC_ROWS:
        inputs = (x, picked, *weights, product.gain, product.column_sums)
        numbers = (rows, capacity, product.epsilon)
        chosen.launch((tiles, rows), x.device, *inputs, *shift, *numbers)
        return
    x = normalized(x.index_select(0, picked), product)
    grid = (tiles, triton.cdiv(rows, chosen.constants["BLOCK_M"]))
    chosen.launch(grid, x.device, x, *weights, *shift, rows, capacity)


def plan(sizes: Sizes, draws: bool, rows: int, dtype: torch.dtype) -> Variant:
    """The kernel and its constants for so many rows."""
    most = next((most for most in MATMUL_ROWS if rows <= most), MATMUL_ROWS[-1])
    return _plan(sizes, draws, MATVEC_ROWS if rows <= MATVEC_ROWS else most, dtype)


@cache
def _plan(sizes: Sizes, draws: bool, rows: int, dtype: torch.dtype) -> Variant:
    kind = element(dtype)
    weights = sizes.weight_types(kind)
    results = {"bias_ptr": "*fp32", "logits_ptr": "*fp32", "state_ptr": "*i32", "best_ptr": "*fp32"}
    results |= dict.fromkeys(("best_token_ptr", "arrived_ptr", "history_ptr"), "*i32")
    results |= {"rows": "i32", "capacity": "i32"}
    constants: Constants = {"DRAWS": draws, "MOST_STEPS": MOST_STEPS}
    if rows <= MATVEC_ROWS:
        kernel, stages = head_matvec_kernel, 1
        blocks, warps = sizes.matvec_blocks()
        types = {"x_ptr": f"*{kind}", "picked_ptr": "*i32", **weights, "gain_ptr": f"*{kind}"}
        types |= {"column_sums_ptr": "*fp32", **results, "epsilon": "fp32"}
        constants |= sizes.constants
    else:
        kernel = head_matmul_kernel
        blocks, warps, stages = matmul_blocks(sizes, rows, dtype)
        types = {"x_ptr": f"*{kind}", **weights, **results}
        constants |= {n: v for n, v in sizes.constants.items() if n != "NORM"}
    tiles = triton.cdiv(sizes.outputs, blocks["BLOCK_N"])
    together = min(triton.next_power_of_2(tiles), 4096 // blocks.get("BLOCK_M", 1))
    constants |= {**blocks, "TILES": tiles, "BLOCK_T": together}
    return Variant(f"head {sizes} {kind} {rows} {draws}", kernel, types, constants, warps, stages)


def matmul_blocks(sizes: Sizes, rows: int, dtype: torch.dtype) -> tuple[Constants, int, int]:
    """Tile, warps and stages of a product of many rows. Products of float32 are IEEE's and not the
    matrix units' tf32: their operands wait in registers."""
    is_float32 = dtype == torch.float32
    warps, stages = 4, 2
    if sizes.bits <= 8:
        block_m, block_k, block_n = 16 if is_float32 else rows, sizes.group, 32
        stages = 1 if is_float32 else 2
    else:
        block_m, block_k, block_n = rows, 16 if is_float32 else 128, 16
        warps, stages = 8 if rows > 32 else 4, 2 if is_float32 else 3
    blocks: Constants = {"BLOCK_M": block_m, "BLOCK_K": block_k, "BLOCK_N": block_n}
    return blocks | {"PRECISION": "ieee"}, warps, stages


def variants(width: int, dtype: str) -> Iterator[Variant]:
    """As used for a model of this width: logits and tokens, one row and batches, both formats."""
    kind = getattr(torch, dtype)
    for bits, group, float8 in ((torch.finfo(kind).bits, 0, False), (8, 64, False), (8, 64, True)):
        if float8 and kind == torch.float32:
            continue  # ``LLM`` has 16-bit activations beside 8-bit floats
        sizes = Sizes(width, 50257, bits, group, norm=True, float8=float8)
        for rows in (1, 16, 64):
            for draws in (False, True):
                yield plan(sizes, draws, rows, kind)
