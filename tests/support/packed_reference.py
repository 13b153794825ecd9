"""Round-to-nearest quantization written down in numpy, apart from the code that it checks."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpt2fast import _C

Floats = NDArray[np.float32]


def to_bfloat16(values: Floats) -> NDArray[np.uint16]:
    """To nearest, ties to even."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def from_bfloat16(bits: NDArray[np.uint16]) -> Floats:
    return (bits.astype(np.uint32) << 16).view(np.float32)


def quantize(matrix: Floats, name: str, group: int) -> tuple[NDArray[np.int8], Floats]:
    """Integers (N, K) and scales (N, G) of a matrix (N, K).

    int8: a step of the largest magnitude / 127, rounded up to a bfloat16, so that nothing is
    clipped. int4, int3: the value of largest magnitude is -8 or -4 steps.
    """
    outputs, inputs = matrix.shape
    groups = -(-inputs // group)
    low, high = {"int8": (-127, 127), "int4": (-8, 7), "int3": (-4, 3)}[name]
    integers = np.zeros((outputs, inputs), np.int8)
    scales = np.zeros((outputs, groups), np.float32)
    for g in range(groups):
        span = slice(g * group, (g + 1) * group)
        part = matrix[:, span]
        least, most = np.minimum(part.min(axis=1), 0), np.maximum(part.max(axis=1), 0)
        extreme = np.where(-least > most, least, most)
        if name == "int8":
            step = np.abs(extreme) / np.float32(127)
            bits = to_bfloat16(step)
            bits = np.where(from_bfloat16(bits) < step, bits + 1, bits).astype(np.uint16)
        else:
            bits = to_bfloat16(extreme / np.float32(low))
        bits = np.where(np.abs(extreme) < np.float32(1e-30), 0, bits).astype(np.uint16)
        scale = scales[:, g] = from_bfloat16(bits)
        inverse = np.divide(np.float32(1), scale, out=np.zeros_like(scale), where=scale != 0)
        integers[:, span] = np.clip(np.rint(part * inverse[:, None]), low, high)
    return integers, scales


def pack(matrix: Floats, name: str, group: int, conv1d: bool) -> NDArray[np.uint8]:
    """The C++ panels of a matrix (N, K), handed over as a Conv1D (K, N) or as it is.

    A decoder is the way to them: the matrix is its embedding, or its only MLP's second one.
    """
    outputs, inputs = matrix.shape
    tensor = "h.0.mlp.c_proj.weight" if conv1d else "wte.weight"
    sizes: dict[str, Any] = (
        {"vocab": 1, "width": outputs, "layers": [(1, inputs, 1.0)]}
        if conv1d
        else {"vocab": outputs, "width": inputs, "layers": [(1, 1, 1.0)]}
    )
    decoder = _C.Decoder(
        positions=1,
        head_size=1,
        epsilon=1e-5,
        activation="relu",
        tied_head=True,
        formats={tensor: (name, group)},
        kv_format="float32",
        num_threads=2,
        num_blocks=1,
        max_batch_tokens=1,
        **sizes,
    )
    stored = np.ascontiguousarray(matrix.T if conv1d else matrix, np.float32)
    decoder.load(tensor, "F32", list(stored.shape), stored.reshape(-1).view(np.uint8))
    return decoder.packed(tensor)
