"""A graph while it is written: its nodes in order, its constants and weights by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

CONTRIB = "com.microsoft"  # onnxruntime's own operators
TYPES = {
    "float32": ir.DataType.FLOAT,
    "float16": ir.DataType.FLOAT16,
    "bfloat16": ir.DataType.BFLOAT16,
    "uint8": ir.DataType.UINT8,
    "int8": ir.DataType.INT8,
    "int4": ir.DataType.INT4,
}
_LOOKUPS = ("Gather", "GatherBlockQuantized")  # read some rows of a table and not all of it
_PLAIN = ("Reshape", "Transpose", "Cast")  # done when a graph is loaded


class GraphBuilder:
    """Appends nodes. ``element`` is the dtype of weights, activations and cache, by its name."""

    def __init__(self, element: str) -> None:
        self.element, self.numpy_element = element, np.dtype(element)
        self.nodes: list[ir.Node] = []
        self.initializers: dict[str, ir.Value] = {}

    @property
    def type(self) -> ir.DataType:
        """``element`` as a type of ONNX."""
        return TYPES[self.element]

    def op(
        self,
        kind: str,
        *inputs: ir.Value | None,
        outputs: int = 1,
        contrib: bool = False,
        **attributes: Any,
    ) -> Any:
        """Append a node; its output, or a list of several."""
        name = f"{kind}_{len(self.nodes)}"
        given = list(inputs)
        while given and given[-1] is None:
            given.pop()
        values = [ir.Value(name=f"{name}_{index}") for index in range(outputs)]
        node = ir.node(
            kind, given, attributes, domain=CONTRIB if contrib else "", outputs=values, name=name
        )
        self.nodes.append(node)
        return values[0] if outputs == 1 else values

    def constant(self, name: str, array: NDArray[Any]) -> ir.Value:
        """A small constant; of what has that name already there is no second."""
        if name not in self.initializers:
            tensor = ir.tensor(array, name=name)
            value = ir.val(name, tensor.dtype, list(array.shape), const_value=tensor)
            self.initializers[name] = value
        return self.initializers[name]

    def number(self, value: float) -> ir.Value:
        """A scalar of ``element``."""
        return self.constant(f"number_{value!r}", np.array(value, self.numpy_element))

    def integers(self, *values: int) -> ir.Value:
        """A vector of int64."""
        name = "_".join(("integers", *map(str, values)))
        return self.constant(name, np.array(values, np.int64))

    def integer(self, value: int) -> ir.Value:
        """A scalar of int64."""
        return self.constant(f"integer_{value}", np.array(value, np.int64))

    def weight(
        self, name: str, dtype: str, shape: Sequence[int], read: Callable[[], NDArray[Any]]
    ) -> ir.Value:
        """A weight that is read when it is written, so that one at a time is in memory. Of what has
        that name already there is no second."""
        if name not in self.initializers:
            sizes = ir.Shape(list(shape))

            def load() -> ir.TensorProtocol:
                values = np.ascontiguousarray(self.converted(read(), dtype))
                return ir.tensor(values, name=name)

            lazy = ir.LazyTensor(load, TYPES[dtype], sizes, name=name)
            self.initializers[name] = ir.val(name, lazy.dtype, sizes, const_value=lazy)
        return self.initializers[name]

    @staticmethod
    def converted(values: NDArray[Any], dtype: str) -> NDArray[Any]:
        """``values`` as an array of ``dtype``, by its name in ``TYPES``."""
        return values.astype(TYPES[dtype].numpy(), copy=False)

    def bytes_read(self) -> int:
        """Of the weights that every step reads in full, as they are in memory: in bfloat16 none of
        them is any more."""
        return sum(
            value.const_value.nbytes * (2 if value.dtype == ir.DataType.BFLOAT16 else 1)
            for value in self.initializers.values()
            if value.const_value is not None and _readers(value) - set(_LOOKUPS)
        )

    def model(
        self,
        inputs: Sequence[ir.Value],
        outputs: Sequence[ir.Value],
        opset: int,
        facts: Mapping[str, str],
    ) -> ir.Model:
        """The whole, with ``facts`` as its metadata."""
        contrib = {CONTRIB: 1} if any(node.domain == CONTRIB for node in self.nodes) else {}
        graph = ir.Graph(
            inputs,
            outputs,
            nodes=self.nodes,
            initializers=list(self.initializers.values()),
            opset_imports={"": opset, **contrib},
            name="gpt2",
        )
        version = 10 if opset < 23 else 11  # of the file's format
        return ir.Model(
            graph, ir_version=version, producer_name="gpt2fast", metadata_props=dict(facts)
        )


def _readers(value: ir.Value) -> set[str]:
    """Kinds of the operators that take ``value``, directly or through mere rearrangement."""
    found: set[str] = set()
    for use in value.uses():
        kind = use.node.op_type
        found |= _readers(use.node.outputs[0]) if kind in _PLAIN else {kind}
    return found
