"""Standard operators alone: a graph for any runtime that has the opset's attention."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir

from gpt2fast.export.graph import GraphBuilder
from gpt2fast.export.integers import Integers
from gpt2fast.export.operators import HIDDEN, Heads, Inputs, length_of, mask_bias


class PortableOperators:
    """Opset 23. Integers are dequantized in blocks right before their product, a pair that
    onnxruntime makes one operator of."""

    opset = 23
    cache = "grown"

    def __init__(self, graph: GraphBuilder, head_size: int) -> None:
        self.graph = graph

    def begin(self, inputs: Inputs) -> None:
        """What a token may see is a mask of ours: with cached tokens, runtimes differ in where they
        begin the operator's own triangle."""
        g = self.graph
        total, new = (g.op("Squeeze", length_of(g, each, 1)) for each in (inputs.mask, inputs.ids))
        columns = g.op("Range", g.integer(0), total, g.integer(1))
        rows = g.op("Range", g.op("Sub", total, new), total, g.integer(1))
        later = g.op("Greater", columns, g.op("Unsqueeze", rows, g.integers(1)))  # (S, T)
        hidden = g.op("Where", later, g.number(HIDDEN[g.element]), g.number(0.0))
        self._bias = g.op("Min", hidden, mask_bias(g, inputs))  # (B, 1, S, T)

    def attention(
        self, qkv: ir.Value, past: tuple[ir.Value, ir.Value], heads: Heads
    ) -> list[ir.Value]:
        """See ``Operators``."""
        g = self.graph
        found: list[ir.Value] = g.op(
            "Attention",
            *g.op("Split", qkv, outputs=3, axis=-1, num_outputs=3),
            *(self._bias, *past),
            outputs=3, scale=heads.scale,
            q_num_heads=heads.number, kv_num_heads=heads.number,
        )  # fmt: skip
        return found

    def gelu(self, x: ir.Value, *, tanh: bool) -> Any:
        """See ``Operators``."""
        return self.graph.op("Gelu", x, approximate="tanh" if tanh else "none")

    def swish(self, x: ir.Value, alpha: float) -> Any:
        """See ``Operators``."""
        g = self.graph
        scaled = x if alpha == 1.0 else g.op("Mul", x, g.number(alpha))
        return g.op("Mul", x, g.op("Sigmoid", scaled))

    def table_product(self, x: ir.Value, table: ir.Value) -> Any:
        """See ``Operators``."""
        g = self.graph
        return g.op("MatMul", x, g.op("Transpose", table, perm=[1, 0]))

    def integer_product(self, x: ir.Value, weight: Integers, bias: ir.Value | None) -> Any:
        """See ``Operators``."""
        g = self.graph
        integers, scales = weight.columns(), weight.column_scales()
        values = g.op("DequantizeLinear", integers, scales, axis=0, block_size=weight.group)
        y = g.op("MatMul", x, values)
        return y if bias is None else g.op("Add", y, bias)

    def integer_rows(self, weight: Integers, ids: ir.Value) -> Any:
        """See ``Operators``."""
        g = self.graph
        integers, scales = (
            g.op("Gather", g.op("Transpose", each, perm=[1, 0]), ids)
            for each in (weight.columns(), weight.column_scales())
        )
        return g.op("DequantizeLinear", integers, scales, axis=2, block_size=weight.group)
