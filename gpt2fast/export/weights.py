"""A checkpoint's tensors as weights of a graph, and the products with them.

Shapes: B sequences, S new tokens, K inputs, N outputs, C width, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from gpt2fast.checkpoint.tensor_source import TensorSource
from gpt2fast.errors import CheckpointError
from gpt2fast.export.graph import GraphBuilder
from gpt2fast.export.integers import Integers
from gpt2fast.export.operators import Operators
from gpt2fast.quantization import EMBEDDING, HEAD


class Weights:
    """Tensors of ``source``, which stays open until the graph is saved.

    ``stored`` is the dtype of the matrices in the file; what the graph computes in is made of them
    when it is loaded.
    """

    def __init__(self, operators: Operators, source: TensorSource, stored: str) -> None:
        self.operators, self.source, self.stored = operators, source, stored
        self.graph = operators.graph
        self._cast: dict[str, ir.Value] = {}

    def floats(self, name: str) -> ir.Value:
        """A vector or matrix in the element type of the graph."""
        shape = self.source.shapes[name]
        dtype = self.graph.element if len(shape) < 2 else self.stored
        value = self.graph.weight(name, dtype, shape, lambda: self._values(name, dtype))
        if dtype == self.graph.element:
            return value
        if name not in self._cast:
            self._cast[name] = self.graph.op("Cast", value, to=int(self.graph.type))
        return self._cast[name]

    def product(self, x: ir.Value, name: str, bias: ir.Value | None = None) -> Any:
        """``x`` (B, S, K) times a matrix, plus ``bias`` (N,) where one is given: (B, S, N)."""
        graph = self.graph
        if self._is_packed(name):
            weight = Integers(graph, self.source, name)
            return self.operators.integer_product(x, weight, bias)
        if name in (EMBEDDING, HEAD):  # stored (N, K), and the embedding is read from it as well
            y = self.operators.table_product(x, self.floats(name))
        else:
            y = graph.op("MatMul", x, self.floats(name))
        return y if bias is None else graph.op("Add", y, bias)

    def rows(self, name: str, ids: ir.Value) -> Any:
        """Rows ``ids`` (B, S) of a table (V, C): (B, S, C)."""
        if not self._is_packed(name):
            return self.graph.op("Gather", self.floats(name), ids)
        weight = Integers(self.graph, self.source, name)
        if weight.bits == 8:
            return self.operators.integer_rows(weight, ids)
        # No operator of every runtime looks up rows of less.
        dtype, shape = self.graph.element, (weight.outputs, weight.inputs)
        read = self.graph.weight(f"{name}.values", dtype, shape, lambda: self._values(name, dtype))
        return self.graph.op("Gather", read, ids)

    def _is_packed(self, name: str) -> bool:
        return name in self.source.layouts

    def _values(self, name: str, dtype: str) -> NDArray[Any]:
        stored = self.source.tensor(name)
        values = stored.float32()
        with np.errstate(over="ignore"):
            found: NDArray[Any] = self.graph.converted(values, dtype)
        stored.release()
        if not bool(np.isfinite(found.astype(np.float32, copy=False)).all()):
            raise CheckpointError(
                f"{stored.source}: tensor {name!r} has values that {dtype} cannot hold; export it "
                "in fp32"
            )
        return found


class Learned:
    """The parameters of one value that an activation has, below ``prefix``."""

    def __init__(self, weights: Weights, prefix: str) -> None:
        self._source, self._prefix = weights.source, prefix
        self._is_bfloat16 = False

    def value(self, name: str) -> float:
        """One of them."""
        stored = self._source.tensor(f"{self._prefix}.{name}")
        self._is_bfloat16 |= stored.dtype == "BF16"
        return float(stored.float32().reshape(()))

    def rounded(self, value: float) -> float:
        """``value`` in the type in which they are stored."""
        dtype = "bfloat16" if self._is_bfloat16 else "float32"
        return float(GraphBuilder.converted(np.array(value, np.float32), dtype))
