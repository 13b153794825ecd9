"""Operators of onnxruntime's own, the fastest that it has for a decoder on the CPU."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir

from gpt2fast.export.graph import GraphBuilder
from gpt2fast.export.integers import Integers
from gpt2fast.export.operators import Heads, Inputs, length_of, mask_bias

INT32 = ir.DataType.INT32
_GROUP_QUERY_SIZES = 8  # of heads must be multiples of it; MultiHeadAttention takes any
_ACTIVATIONS_IN_INT8 = 4  # MatMulNBits' accuracy_level; a token in floats takes 35 times as long


class OrtOperators:
    """Contrib operators. Attention is ``GroupQueryAttention``, which writes into its past where
    both are the same memory."""

    opset = 21

    def __init__(self, graph: GraphBuilder, head_size: int) -> None:
        self.graph = graph
        self.cache = "shared" if head_size % _GROUP_QUERY_SIZES == 0 else "grown"

    def begin(self, inputs: Inputs) -> None:
        """A token's place in the cache is its column of the mask, whatever its position is: left
        padding takes places, and is hidden."""
        g = self.graph
        total = g.op("Gather", g.op("Shape", inputs.mask), g.integer(1), axis=0)
        last = g.op("ArgMax", inputs.mask, axis=1, keepdims=0, select_last_index=1)
        self._last = g.op("Cast", last, to=int(INT32))  # (B,): of a sequence's tokens
        self._total = g.op("Cast", total, to=int(INT32))  # scalar: T
        ones = g.integers(1, 1)
        shape = g.op("Concat", ones, length_of(g, inputs.ids, 1), g.integers(1), axis=0)
        self._bias = g.op("Expand", mask_bias(g, inputs), shape)  # (B, 1, S, T)

    def attention(
        self, qkv: ir.Value, past: tuple[ir.Value, ir.Value], heads: Heads
    ) -> list[ir.Value]:
        """See ``Operators``."""
        g = self.graph
        if self.cache == "shared":
            found: list[ir.Value] = g.op(
                "GroupQueryAttention",
                *(qkv, None, None, *past, self._last, self._total),
                *(None, None, None, self._bias),
                outputs=3, contrib=True, num_heads=heads.number, kv_num_heads=heads.number,
                scale=heads.scale,
            )  # fmt: skip
            return found
        found = g.op(
            "MultiHeadAttention",
            *g.op("Split", qkv, outputs=3, axis=-1, num_outputs=3),
            *(None, None, self._bias, *past),
            outputs=3, contrib=True, num_heads=heads.number, scale=heads.scale, unidirectional=1,
        )  # fmt: skip
        return found

    def gelu(self, x: ir.Value, *, tanh: bool) -> Any:
        """See ``Operators``."""
        return self.graph.op("FastGelu" if tanh else "Gelu", x, contrib=True)

    def swish(self, x: ir.Value, alpha: float) -> Any:
        """See ``Operators``."""
        return self.graph.op("QuickGelu", x, contrib=True, alpha=alpha)

    def table_product(self, x: ir.Value, table: ir.Value) -> Any:
        """See ``Operators``."""
        return self.graph.op("FusedMatMul", x, table, contrib=True, transB=1)

    def integer_product(self, x: ir.Value, weight: Integers, bias: ir.Value | None) -> Any:
        """See ``Operators``."""
        return self.graph.op(
            "MatMulNBits",
            *(x, weight.blocks(), weight.scales(), None, None, bias),
            contrib=True, K=weight.inputs, N=weight.outputs, bits=weight.bits,
            block_size=weight.group, accuracy_level=_ACTIVATIONS_IN_INT8,
        )  # fmt: skip

    def integer_rows(self, weight: Integers, ids: ir.Value) -> Any:
        """See ``Operators``."""
        g = self.graph
        flat = g.op("Reshape", weight.blocks(), g.integers(weight.outputs, -1))
        rows = g.op(
            "GatherBlockQuantized",
            *(flat, ids, weight.scales()),
            contrib=True, bits=8, block_size=weight.group, gather_axis=0, quantize_axis=1,
        )  # fmt: skip
        if weight.inputs % weight.group == 0:
            return rows
        ends = [g.integers(end) for end in (0, weight.inputs, 2)]
        return g.op("Slice", rows, *ends)  # the last group is filled up
