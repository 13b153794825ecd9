"""A matrix of integers, however its bytes are arranged where it is stored or multiplied.

Shapes: N outputs, K inputs, G groups of inputs that share a scale.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np

from gpt2fast.quantization.scheme import MatrixFormat

Array = TypeVar("Array")  # of numpy or of torch


@dataclass(frozen=True, eq=False)
class QuantizedMatrix(Generic[Array]):
    """An output a row: weight = integer * scale of its group. The arrays are numpy's or torch's."""

    integers: Array  # (N, K) int8, in the range of the format
    scales: Array  # (N, G) float32, each a bfloat16 number
    format: MatrixFormat

    def dequantize(self) -> Array:
        """The values (N, K) in float32: a new array, an output after the other in memory."""
        integers: Any = self.integers
        scales: Any = self.scales
        is_numpy = isinstance(integers, np.ndarray)
        values: Any = integers.astype(np.float32) if is_numpy else integers.float()
        group = self.format.group_size
        for index in range(scales.shape[1]):
            values[:, index * group : (index + 1) * group] *= scales[:, index : index + 1]
        found: Array = values
        return found
