"""GPT-2 as one graph with a cache, for prompts and single tokens, with onnxruntime's operators.

Names of inputs and outputs are optimum's. Shapes: B sequences, S new tokens, P cached ones, T = P +
S, L layers, H heads of a layer, D head size, V vocabulary, R rows whose logits are wanted.

    input_ids (B, S), attention_mask (B, T), position_ids (B, S): int64
    past_key_values.<layer>.key, .value (B, H, P, D)
    num_logits_to_keep: of each sequence's last rows; 0, which it is unless given, means all
    -> logits (B, R, V), present.<layer>.key, .value (B, H, T, D)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import onnx_ir as ir

from gpt2fast.export.activation import TANH_GELUS, activation
from gpt2fast.export.graph import GraphBuilder
from gpt2fast.export.weights import Learned, Weights
from gpt2fast.quantization import EMBEDDING, HEAD

if TYPE_CHECKING:
    from gpt2fast.checkpoint import Checkpoint
    from gpt2fast.config import ModelConfig

INT64, INT32 = ir.DataType.INT64, ir.DataType.INT32
_GROUP_QUERY_SIZES = 8  # of heads must be multiples of it; MultiHeadAttention takes any
_HIDDEN = {"float32": -1e30, "float16": -6e4}  # added to scores of what may not be seen


class Inputs(NamedTuple):
    """What a step is given."""

    ids: ir.Value
    mask: ir.Value
    positions: ir.Value
    keep: ir.Value
    past: list[tuple[ir.Value, ir.Value]]  # keys and values of each layer


class Places(NamedTuple):
    """What all layers' attention needs to know of the step."""

    last: ir.Value  # (B,) int32: the position of the last token in the cache
    total: ir.Value  # scalar int32: T
    bias: ir.Value  # (B, 1, S, T)


def build(checkpoint: Checkpoint, element: str, facts: Mapping[str, str]) -> ir.Model:
    """The graph of ``checkpoint``, which must stay open until the model is saved."""
    graph = GraphBuilder(element)
    config, weights = checkpoint.config, Weights(graph, checkpoint)
    inputs = _inputs(graph, config)
    logits, present = Decoder(graph, weights, config).step(inputs)
    logits.name = "logits"
    logits.dtype, logits.shape = graph.type, ir.Shape(["B", "R", config.vocab_size])
    caches = [value for pair in inputs.past for value in pair]
    given = [inputs.ids, inputs.mask, inputs.positions, inputs.keep, *caches]
    graph.initializers[str(inputs.keep.name)] = inputs.keep
    return graph.model(given, [logits, *present], facts)


def _inputs(graph: GraphBuilder, config: ModelConfig) -> Inputs:
    def cache(layer: int, kind: str) -> ir.Value:
        heads = config.layer_shape(layer).n_head
        name = f"past_key_values.{layer}.{kind}"
        return ir.val(name, graph.type, ["B", heads, "P", config.head_size])

    keep = np.array(0, np.int64)
    name = "num_logits_to_keep"
    return Inputs(
        ir.val("input_ids", INT64, ["B", "S"]),
        ir.val("attention_mask", INT64, ["B", "T"]),
        ir.val("position_ids", INT64, ["B", "S"]),
        ir.val(name, INT64, [], const_value=ir.tensor(keep, name=name)),
        [(cache(layer, "key"), cache(layer, "value")) for layer in range(config.n_layer)],
    )


class Decoder:
    """Writes the layers into a graph."""

    def __init__(self, graph: GraphBuilder, weights: Weights, config: ModelConfig) -> None:
        self.graph, self.weights, self.config = graph, weights, config

    def step(self, inputs: Inputs) -> tuple[ir.Value, list[ir.Value]]:
        """Logits, and keys and values of all layers."""
        g, w, last = self.graph, self.weights, self.config.n_layer - 1
        places = self._places(inputs)
        table = w.floats("wpe.weight")
        x = g.op("Add", w.rows(EMBEDDING, inputs.ids), g.op("Gather", table, inputs.positions))
        normed = self._norm(x, "h.0.ln_1")
        present: list[ir.Value] = []
        for layer in range(last + 1):
            at = f"h.{layer}"
            attended, *new = self._attention(layer, normed, inputs.past[layer], places)
            present += new
            normed, x = self._add_and_norm(x, attended, f"{at}.attn.c_proj.bias", f"{at}.ln_2")
            inner = self._mlp(layer, normed)
            after = f"h.{layer + 1}.ln_1" if layer < last else "ln_f"
            if layer == last:  # the head only sees the rows that are wanted
                x, inner = (self._last_rows(each, inputs.keep) for each in (x, inner))
            normed, x = self._add_and_norm(x, inner, f"{at}.mlp.c_proj.bias", after)
        head = EMBEDDING if self.config.tie_word_embeddings else HEAD
        return w.product(normed, head), present

    def _places(self, inputs: Inputs) -> Places:
        """A token's place in the cache is its column of the mask, whatever its position is: left
        padding takes places, and is hidden."""
        g = self.graph
        total = g.op("Gather", g.op("Shape", inputs.mask), g.integer(1), axis=0)
        columns = g.op("Range", g.integer(0), total, g.integer(1))
        last = g.op("ReduceMax", g.op("Mul", inputs.mask, columns), g.integers(1), keepdims=0)
        seen = g.op("Cast", inputs.mask, to=int(g.type))
        hidden = g.op("Mul", g.op("Sub", g.number(1.0), seen), g.number(_HIDDEN[g.element]))
        new = g.op("Slice", g.op("Shape", inputs.ids), g.integers(1), g.integers(2))
        shape = g.op("Concat", g.integers(1, 1), new, g.integers(1), axis=0)
        return Places(
            g.op("Cast", last, to=int(INT32)),
            g.op("Cast", total, to=int(INT32)),
            g.op("Expand", g.op("Unsqueeze", hidden, g.integers(1, 2)), shape),
        )

    def _attention(
        self, layer: int, x: ir.Value, past: tuple[ir.Value, ir.Value], places: Places
    ) -> list[ir.Value]:
        """What the heads of ``layer`` make of x, times c_proj; its keys and values."""
        g, at = self.graph, f"h.{layer}.attn"
        heads = self.config.layer_shape(layer).n_head
        qkv = self.weights.product(x, f"{at}.c_attn.weight", self._vector(f"{at}.c_attn.bias"))
        scale = self.config.attention_scale(layer)
        if self.config.head_size % _GROUP_QUERY_SIZES == 0:
            attended, *present = g.op(
                "GroupQueryAttention",
                *(qkv, None, None, *past, places.last, places.total),
                *(None, None, None, places.bias),
                outputs=3, contrib=True, num_heads=heads, kv_num_heads=heads, scale=scale,
            )  # fmt: skip
        else:
            attended, *present = g.op(
                "MultiHeadAttention",
                *g.op("Split", qkv, outputs=3, axis=-1, num_outputs=3),
                *(None, None, places.bias, *past),
                outputs=3, contrib=True, num_heads=heads, scale=scale, unidirectional=1,
            )  # fmt: skip
        for value, kind in zip(present, ("key", "value"), strict=True):
            value.name = f"present.{layer}.{kind}"
            value.dtype = g.type
            value.shape = ir.Shape(["B", heads, "T", self.config.head_size])
        return [self.weights.product(attended, f"{at}.c_proj.weight"), *present]

    def _mlp(self, layer: int, x: ir.Value) -> Any:
        """Without the bias of c_proj, which the addition behind it brings."""
        g, at, name = self.graph, f"h.{layer}.mlp", self.config.activation_function
        bias = self._vector(f"{at}.c_fc.bias")
        if name in TANH_GELUS:
            inner = self.weights.product(x, f"{at}.c_fc.weight")
            inner = g.op("FastGelu", inner, bias, contrib=True)
        else:
            inner = self.weights.product(x, f"{at}.c_fc.weight", bias)
            learned = Learned(self.weights, f"{at}.act")
            inner = activation(g, name, inner, learned.value, learned.rounded)
        return self.weights.product(inner, f"{at}.c_proj.weight")

    def _add_and_norm(
        self, x: ir.Value, y: ir.Value, bias: str, norm: str
    ) -> tuple[ir.Value, ir.Value]:
        """The LayerNorm of x + y + bias, and the sum."""
        normed, _, _, total = self.graph.op(
            "SkipLayerNormalization",
            x,
            y,
            self._vector(f"{norm}.weight"),
            self._vector(f"{norm}.bias"),
            self._vector(bias),
            outputs=4,
            contrib=True,
            epsilon=self.config.layer_norm_epsilon,
        )
        return normed, total

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
