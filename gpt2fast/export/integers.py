"""A matrix of integers in the forms that operators take.

Integers stay what they are: operators of onnxruntime take them with an offset, 128 or 8, standard
ones as signed numbers; scales are in floating point. Shapes: K inputs, N outputs, G groups of
inputs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from gpt2fast.checkpoint.packed import PackedTensor
from gpt2fast.checkpoint.tensor_source import TensorSource
from gpt2fast.export.graph import GraphBuilder
from gpt2fast.quantization.matrix import QuantizedMatrix

_BITS = {"int8": 8, "int4": 4, "int3": 4}  # three bits lie in four: they are among its integers


class Integers:
    """The matrix ``name`` of ``source``, which stays open until the graph is saved."""

    def __init__(self, graph: GraphBuilder, source: TensorSource, name: str) -> None:
        self._graph, self._source, self._name = graph, source, name
        layout = source.layouts[name]
        self.inputs, self.outputs, self.groups = layout.inputs, layout.outputs, layout.groups
        self.group, self.bits = layout.format.group_size, _BITS[layout.format.name]

    def blocks(self) -> ir.Value:
        """(N, G, bytes of a group), with an offset."""
        shape = (self.outputs, self.groups, self.group * self.bits // 8)
        return self._graph.weight(
            f"{self._name}.integers",
            "uint8",
            shape,
            self._read(lambda matrix: pack(matrix.integers, self.group, self.bits)),
        )

    def scales(self) -> ir.Value:
        """(N, G)."""
        return self._graph.weight(
            f"{self._name}.scales",
            self._graph.element,
            (self.outputs, self.groups),
            self._read(lambda matrix: matrix.scales),
        )

    def columns(self) -> ir.Value:
        """(K, N), signed."""
        return self._graph.weight(
            f"{self._name}.integers",
            f"int{self.bits}",
            (self.inputs, self.outputs),
            self._read(lambda matrix: matrix.integers.T),
        )

    def column_scales(self) -> ir.Value:
        """(G, N)."""
        return self._graph.weight(
            f"{self._name}.scales",
            self._graph.element,
            (self.groups, self.outputs),
            self._read(lambda matrix: matrix.scales.T),
        )

    def _read(
        self, make: Callable[[QuantizedMatrix[NDArray[Any]]], NDArray[Any]]
    ) -> Callable[[], NDArray[Any]]:
        def read() -> NDArray[Any]:
            stored = self._source.tensor(self._name)
            assert isinstance(stored, PackedTensor)
            matrix = stored.matrix()
            stored.release()
            return make(matrix)

        return read


def pack(integers: NDArray[np.int8], group: int, bits: int) -> NDArray[np.uint8]:
    """Integers (N, K) as MatMulNBits has them: (N, G, bytes of a group), offset by half the range,
    the first of two in the lower bits of a byte; zeros behind the last input."""
    outputs, inputs = integers.shape
    groups = -(-inputs // group)
    padded = np.zeros((outputs, groups * group), np.int8)
    padded[:, :inputs] = integers
    offset = padded.view(np.uint8) + np.uint8(1 << (bits - 1))
    if bits == 4:
        offset = offset[:, 0::2] | offset[:, 1::2] << 4
    found: NDArray[np.uint8] = offset.reshape(outputs, groups, -1)
    return found
