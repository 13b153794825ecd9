"""GPT-2 as one graph with a cache, for prompts and single tokens, in the operators of a target.

Names of inputs and outputs are optimum's. Shapes: B sequences, S new tokens, P cached ones, T = P +
S, L layers, H heads of a layer, D head size, V vocabulary, R rows whose logits are wanted.

    input_ids (B, S), attention_mask (B, T), position_ids (B, S): int64
    past_key_values.<layer>.key, .value (B, H, P, D)
    num_logits_to_keep: of each sequence's last rows; 0, which it is unless given, means all
    -> logits (B, R, V), present.<layer>.key, .value (B, H, T, D)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from gpt2fast.export.activation import activation
from gpt2fast.export.graph import GraphBuilder
from gpt2fast.export.operators import Heads, Inputs, Operators
from gpt2fast.export.ort import OrtOperators
from gpt2fast.export.portable import PortableOperators
from gpt2fast.export.weights import Learned, Weights
from gpt2fast.quantization import EMBEDDING, HEAD

if TYPE_CHECKING:
    from gpt2fast.checkpoint.tensor_source import TensorSource
    from gpt2fast.config import ModelConfig

INT64 = ir.DataType.INT64
# Sizes by the names that optimum computes shapes of outputs with.
BATCH, NEW, PAST = "batch_size", "sequence_length", "past_sequence_length"
TOTAL = f"{PAST} + {NEW}"
TARGETS: dict[str, type[OrtOperators] | type[PortableOperators]] = {
    "ort": OrtOperators,
    "portable": PortableOperators,
}
# What weights are stored in and what is computed in, by the precision.
_DTYPES = {"fp16": ("float16", "float16"), "bf16": ("bfloat16", "float32")}


def build(source: TensorSource, target: str, precision: str, facts: Mapping[str, str]) -> ir.Model:
    """The graph of ``source``, which must stay open until the model is saved. Its metadata are
    ``facts`` and what a runner wants to know."""
    stored, element = _DTYPES.get(precision, ("float32", "float32"))
    graph, config = GraphBuilder(element), source.config
    kind = TARGETS[target]
    operators: Operators = kind(graph, config.head_size)
    decoder = Decoder(operators, Weights(operators, source, stored), config)
    inputs = _inputs(graph, config)
    logits, present = decoder.step(inputs)
    logits.name = "logits"
    logits.dtype, logits.shape = graph.type, ir.Shape([BATCH, NEW, config.vocab_size])
    caches = [value for pair in inputs.past for value in pair]
    given = [inputs.ids, inputs.mask, inputs.positions, inputs.keep, *caches]
    graph.initializers[str(inputs.keep.name)] = inputs.keep
    facts = {
        **facts,
        "cache": operators.cache,
        "bytes_per_step": str(graph.bytes_read()),
        "n_positions": str(config.n_positions),
    }
    return graph.model(given, [logits, *present], kind.opset, facts)


def _inputs(graph: GraphBuilder, config: ModelConfig) -> Inputs:
    def cache(layer: int, kind: str) -> ir.Value:
        heads = config.layer_shape(layer).n_head
        name = f"past_key_values.{layer}.{kind}"
        return ir.val(name, graph.type, [BATCH, heads, PAST, config.head_size])

    keep = np.array(0, np.int64)
    name = "num_logits_to_keep"
    return Inputs(
        ir.val("input_ids", INT64, [BATCH, NEW]),
        ir.val("attention_mask", INT64, [BATCH, TOTAL]),
        ir.val("position_ids", INT64, [BATCH, NEW]),
        ir.val(name, INT64, [], const_value=ir.tensor(keep, name=name)),
        [(cache(layer, "key"), cache(layer, "value")) for layer in range(config.n_layer)],
    )


class Decoder:
    """Writes the layers into a graph."""

    def __init__(self, operators: Operators, weights: Weights, config: ModelConfig) -> None:
        self.graph, self.operators = operators.graph, operators
        self.weights, self.config = weights, config

    def step(self, inputs: Inputs) -> tuple[ir.Value, list[ir.Value]]:
        """Logits, and keys and values of all layers."""
        g, w, last = self.graph, self.weights, self.config.n_layer - 1
        self.operators.begin(inputs)
        table = w.floats("wpe.weight")
        x = g.op("Add", w.rows(EMBEDDING, inputs.ids), g.op("Gather", table, inputs.positions))
        normed = self._norm(x, "h.0.ln_1")
        present: list[ir.Value] = []
        for layer in range(last + 1):
            at = f"h.{layer}"
            attended, *new = self._attention(layer, normed, inputs.past[layer])
            present += new
            x = g.op("Add", x, attended)
            normed = self._norm(x, f"{at}.ln_2")
            inner = self._mlp(layer, normed)
            after = f"h.{layer + 1}.ln_1" if layer < last else "ln_f"
            if layer == last:  # the head only sees the rows that are wanted
                x, inner = (self._last_rows(each, inputs.keep) for each in (x, inner))
            x = g.op("Add", x, inner)
            normed = self._norm(x, after)
        head = EMBEDDING if self.config.tie_word_embeddings else HEAD
        return w.product(normed, head), present

    def _attention(
        self, layer: int, x: ir.Value, past: tuple[ir.Value, ir.Value]
    ) -> list[ir.Value]:
        """What the heads of ``layer`` make of x, times c_proj; its keys and values."""
        config, at = self.config, f"h.{layer}.attn"
        shape = config.layer_shape(layer)
        heads = Heads(shape.n_head, config.head_size, config.attention_scale(layer))
        attended, *present = self.operators.attention(self._linear(x, f"{at}.c_attn"), past, heads)
        for value, kind in zip(present, ("key", "value"), strict=True):
            value.name = f"present.{layer}.{kind}"
            value.dtype = self.graph.type
            value.shape = ir.Shape([BATCH, heads.number, TOTAL, heads.size])
        return [self._linear(attended, f"{at}.c_proj"), *present]

    def _mlp(self, layer: int, x: ir.Value) -> Any:
        at = f"h.{layer}.mlp"
        learned = Learned(self.weights, f"{at}.act")
        x = self._linear(x, f"{at}.c_fc")
        name = self.config.activation_function
        x = activation(self.operators, name, x, learned.value, learned.rounded)
        return self._linear(x, f"{at}.c_proj")

    def _linear(self, x: ir.Value, name: str) -> Any:
        return self.weights.product(x, f"{name}.weight", self._vector(f"{name}.bias"))

    def _norm(self, x: ir.Value, norm: str) -> Any:
        return self.graph.op(
            "LayerNormalization",
            x,
            self._vector(f"{norm}.weight"),
            self._vector(f"{norm}.bias"),
            axis=-1,
            epsilon=self.config.layer_norm_epsilon,
        )

    def _last_rows(self, x: ir.Value, keep: ir.Value) -> Any:
        g = self.graph
        start = g.op("Reshape", g.op("Neg", keep), g.integers(1))
        return g.op("Slice", x, start, g.integers(2**62), g.integers(1))

    def _vector(self, name: str) -> ir.Value:
        return self.weights.floats(name)
