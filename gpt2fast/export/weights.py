"""A checkpoint's tensors as weights of a graph, and the products with them.

Integers stay what they are: the operators of onnxruntime take them with an offset, 128 or 8, and
scales in floating point. Shapes: K inputs, N outputs, G groups of inputs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from gpt2fast.checkpoint.packed import PackedTensor, decode_integers, decode_scales
from gpt2fast.errors import CheckpointError
from gpt2fast.export.graph import GraphBuilder
from gpt2fast.quantization import EMBEDDING, HEAD

if TYPE_CHECKING:
    from gpt2fast.checkpoint import Checkpoint

_BITS = {"int8": 8, "int4": 4, "int3": 4}  # three bits lie in four: they are among its integers
_ACTIVATIONS_IN_INT8 = 4  # MatMulNBits' accuracy_level


class Weights:
    """Tensors of ``checkpoint``, which stays open until the graph is saved."""

    def __init__(self, graph: GraphBuilder, checkpoint: Checkpoint) -> None:
        self.graph, self.checkpoint = graph, checkpoint

    def floats(self, name: str) -> ir.Value:
        """A vector or matrix in the element type of the graph."""

        def read() -> NDArray[Any]:
            return self._values(name)

        shape = self.checkpoint.shapes[name]
        return self.graph.weight(name, self.graph.element, shape, read)

    def product(self, x: ir.Value, name: str, bias: ir.Value | None = None) -> Any:
        """``x`` (B, S, K) times a matrix, plus ``bias`` (N,) where one is given: (B, S, N)."""
        graph = self.graph
        if isinstance(packed := self.checkpoint.tensor(name), PackedTensor):
            layout = packed.layout
            return graph.op(
                "MatMulNBits",
                x,
                *self._integers(name, packed),
                None,
                None,
                bias,
                contrib=True,
                K=layout.inputs,
                N=layout.outputs,
                bits=_BITS[layout.format.name],
                block_size=layout.format.group_size,
                accuracy_level=_ACTIVATIONS_IN_INT8,
            )
        if name in (EMBEDDING, HEAD):  # stored (N, K), and the embedding is read from it as well
            y = graph.op("FusedMatMul", x, self.floats(name), contrib=True, transB=1)
        else:
            y = graph.op("MatMul", x, self.floats(name))
        return y if bias is None else graph.op("Add", y, bias)

    def rows(self, name: str, ids: ir.Value) -> Any:
        """Rows ``ids`` (B, S) of a table (V, C): (B, S, C)."""
        graph = self.graph
        packed = self.checkpoint.tensor(name)
        if not isinstance(packed, PackedTensor):
            return graph.op("Gather", self.floats(name), ids)
        if packed.layout.format.name != "int8":
            values = graph.weight(
                f"{name}.values", graph.element, packed.shape, lambda: self._values(name)
            )
            return graph.op("Gather", values, ids)
        integers, scales = self._integers(name, packed)
        layout = packed.layout
        flat = graph.op("Reshape", integers, graph.integers(layout.outputs, -1))
        rows = graph.op(
            "GatherBlockQuantized", flat, ids, scales, contrib=True, bits=8,
            block_size=layout.format.group_size, gather_axis=0, quantize_axis=1,
        )  # fmt: skip
        if layout.inputs % layout.format.group_size == 0:
            return rows
        ends = [graph.integers(end) for end in (0, layout.inputs, 2)]
        return graph.op("Slice", rows, *ends)  # the last group is filled up

    def _integers(self, name: str, packed: PackedTensor) -> tuple[ir.Value, ir.Value]:
        """Integers (N, G, bytes of a group) and scales (N, G)."""
        layout, element = packed.layout, self.graph.element
        outputs, groups = layout.outputs, layout.groups
        bits = _BITS[layout.format.name]

        def integers() -> NDArray[Any]:
            stored = self._packed(name)
            stored.check_scales()
            values = pack(decode_integers(stored.data, layout), layout.format.group_size, bits)
            stored.release()
            return values

        def scales() -> NDArray[Any]:
            stored = self._packed(name)
            found = decode_scales(stored.data, layout).astype(element)
            stored.release()
            return found

        size = layout.format.group_size * bits // 8
        return (
            self.graph.weight(f"{name}.integers", "uint8", (outputs, groups, size), integers),
            self.graph.weight(f"{name}.scales", element, (outputs, groups), scales),
        )

    def _packed(self, name: str) -> PackedTensor:
        stored = self.checkpoint.tensor(name)
        assert isinstance(stored, PackedTensor)
        return stored

    def _values(self, name: str) -> NDArray[Any]:
        stored = self.checkpoint.tensor(name)
        values = stored.float32()
        with np.errstate(over="ignore"):
            found: NDArray[Any] = values.astype(self.graph.element, copy=True)
        stored.release()
        if not bool(np.isfinite(found).all()):
            raise CheckpointError(
                f"{stored.source}: tensor {name!r} has values that {self.graph.element} cannot "
                "hold; export it in fp32"
            )
        return found


class Learned:
    """The parameters of one value that an activation has, below ``prefix``."""

    def __init__(self, weights: Weights, prefix: str) -> None:
        self._checkpoint, self._prefix = weights.checkpoint, prefix
        self._is_bfloat16 = False

    def value(self, name: str) -> float:
        """One of them."""
        stored = self._checkpoint.tensor(f"{self._prefix}.{name}")
        self._is_bfloat16 |= stored.dtype == "BF16"
        return float(stored.float32().reshape(()))

    def rounded(self, value: float) -> float:
        """``value`` in the type in which they are stored."""
        found = np.array(value, np.float32)
        if self._is_bfloat16:
            bits = found.view(np.uint32)
            found = ((bits + 0x7FFF + (bits >> 16 & 1)) & np.uint32(0xFFFF0000)).view(np.float32)
        return float(found)


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
