"""What a target has operators of its own for: the rest of the graph is the same for all of them.

Residual and LayerNorm, bias and GELU are left apart: fused, onnxruntime's operators for the CPU are
slower (by 3 to 8 % of a token of a 124M), and where fusing pays it fuses them itself.

Shapes: B sequences, S new tokens, P cached ones, T = P + S, H heads, D head size, C width, K
inputs, N outputs.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import onnx_ir as ir

from gpt2fast.export.graph import GraphBuilder
from gpt2fast.export.integers import Integers

# Added to scores of what may not be seen; with room below, so that no sum becomes infinite, which
# would make padding NaN, and what sees it.
HIDDEN = {"float32": -1e30, "float16": -3e4}


class Inputs(NamedTuple):
    """What a step is given."""

    ids: ir.Value
    mask: ir.Value
    positions: ir.Value
    keep: ir.Value
    past: list[tuple[ir.Value, ir.Value]]  # keys and values of each layer


class Heads(NamedTuple):
    """The attention of a layer."""

    number: int
    size: int
    scale: float


class Operators(Protocol):
    """The fused parts of a layer."""

    graph: GraphBuilder
    cache: str  # "shared", where attention can write into its own past, else "grown"

    def begin(self, inputs: Inputs) -> None:
        """What all layers need to know of the step."""
        ...

    def attention(
        self, qkv: ir.Value, past: tuple[ir.Value, ir.Value], heads: Heads
    ) -> list[ir.Value]:
        """Of queries, keys and values side by side (B, S, 3 H D): the mixed values (B, S, H D), and
        the keys and values of the cache with the new ones (B, H, T, D)."""
        ...

    def gelu(self, x: ir.Value, *, tanh: bool) -> Any:
        """GELU, exact or by its formula with a tanh."""
        ...

    def swish(self, x: ir.Value, alpha: float) -> Any:
        """x times the sigmoid of alpha x."""
        ...

    def table_product(self, x: ir.Value, table: ir.Value) -> Any:
        """x (B, S, K) times the transpose of a table (N, K)."""
        ...

    def integer_product(self, x: ir.Value, weight: Integers, bias: ir.Value | None) -> Any:
        """x (B, S, K) times a matrix of integers, plus a bias (N,)."""
        ...

    def integer_rows(self, weight: Integers, ids: ir.Value) -> Any:
        """Rows ``ids`` (B, S) of a table of 8-bit integers (N, K): (B, S, K)."""
        ...


def mask_bias(g: GraphBuilder, inputs: Inputs) -> Any:
    """(B, 1, 1, T): what is added to the scores of padding."""
    seen = g.op("Cast", inputs.mask, to=int(g.type))
    hidden = g.op("Mul", g.op("Sub", g.number(1.0), seen), g.number(HIDDEN[g.element]))
    return g.op("Unsqueeze", hidden, g.integers(1, 2))


def length_of(g: GraphBuilder, x: ir.Value, axis: int) -> Any:
    """(1,): the size of ``axis``."""
    return g.op("Shape", x, start=axis, end=axis + 1)
