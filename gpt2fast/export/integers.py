"""A matrix of integers in the forms that operators take.

Integers stay what they are: operators of onnxruntime take them with an offset, 128 or 8, standard
ones as signed numbers; scales are in floating point. Shapes: K inputs, N outputs, G groups of
inputs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from gpt2fast.checkpoint.packed import PackedTensor, decode_integers, decode_scales
from gpt2fast.export.graph import GraphBuilder

if TYPE_CHECKING:
    from gpt2fast.checkpoint import Checkpoint

_BITS = {"int8": 8, "int4": 4, "int3": 4}  # three bits lie in four: they are among its integers


class Integers:
    """The matrix ``name`` of ``checkpoint``, which stays open until the graph is saved."""

    def __init__(self, graph: GraphBuilder, checkpoint: Checkpoint, name: str) -> None:
        self._graph, self._checkpoint, self._name = graph, checkpoint, name
        layout = self._stored().layout
        self.inputs, self.outputs, self.groups = layout.inputs, layout.outputs, layout.groups
        self.group, self.bits = layout.format.group_size, _BITS[layout.format.name]

    def blocks(self) -> ir.Value:
        """(N, G, bytes of a group), with an offset."""
        shape = (self.outputs, self.groups, self.group * self.bits // 8)
        return self._graph.weight(
            f"{self._name}.integers",
            "uint8",
            shape,
            self._read(lambda stored: pack(_integers(stored), self.group, self.bits)),
        )

    def scales(self) -> ir.Value:
        """(N, G)."""
        return self._graph.weight(
            f"{self._name}.scales",
            self._graph.element,
            (self.outputs, self.groups),
            self._read(_scales),
        )

    def columns(self) -> ir.Value:
        """(K, N), signed."""
        return self._graph.weight(
            f"{self._name}.integers",
            f"int{self.bits}",
            (self.inputs, self.outputs),
            self._read(lambda stored: _integers(stored).T),
        )

    def column_scales(self) -> ir.Value:
        """(G, N)."""
        return self._graph.weight(
            f"{self._name}.scales",
            self._graph.element,
            (self.groups, self.outputs),
            self._read(lambda stored: _scales(stored).T),
        )

    def _stored(self) -> PackedTensor:
        stored = self._checkpoint.tensor(self._name)
        assert isinstance(stored, PackedTensor)
        return stored

    def _read(self, make: Callable[[PackedTensor], NDArray[Any]]) -> Callable[[], NDArray[Any]]:
        def read() -> NDArray[Any]:
            stored = self._stored()
            stored.check_scales()
            found = make(stored)
            stored.release()
            return found

        return read


def _integers(stored: PackedTensor) -> NDArray[np.int8]:
    return decode_integers(stored.data, stored.layout)


def _scales(stored: PackedTensor) -> NDArray[np.float32]:
    return decode_scales(stored.data, stored.layout)


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
