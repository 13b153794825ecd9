"""Matrices of integers of 8 or 4 bits, or of 8-bit floats, with a scale for each output and group
of inputs.

Activations stay in 16 bits or more: on a GPU small weights save bytes, and bytes are what few rows
wait for.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from gpt2fast.kernels import reference
from gpt2fast.quantization import MatrixFormat
from gpt2fast.quantization.matrix import QuantizedMatrix


@dataclass(frozen=True)
class QuantizedWeight:
    """A matrix (N, K) in G groups of inputs.

    8 bits: int8, or float8 (e4m3), (N, G * group), zero behind K. 4 bits: a byte holds input j of a
    group's first half, plus 8, in its low half, and input j of the second half in its high half:
    uint8 (N, G * group / 2), so that both halves of a byte meet runs of inputs.
    """

    integers: Tensor
    scales: Tensor  # (N, G) bfloat16
    inputs: int
    bits: int
    group: int

    @classmethod
    def from_matrix(cls, matrix: QuantizedMatrix[Tensor]) -> QuantizedWeight:
        """The integers and scales of ``matrix`` as they are; int3 takes 4 bits here: its integers
        are among int4's."""
        bits, group = 8 if matrix.format.name == "int8" else 4, matrix.format.group_size
        outputs, inputs = matrix.integers.shape
        integers = F.pad(matrix.integers, (0, -inputs % group))
        if bits == 4:
            halves = (integers.view(outputs, -1, 2, group // 2) + 8).to(torch.uint8)
            integers = (halves[:, :, 0] | halves[:, :, 1] << 4).flatten(1)
        scales = matrix.scales.bfloat16().contiguous()
        return cls(integers.contiguous(), scales, inputs, bits, group)

    @classmethod
    def from_float(cls, weight: Tensor, form: str, group: int) -> QuantizedWeight:
        """Weights (N, K) to nearest: "int8", "int4" or "int3", as the CPU runner rounds them,
        or "fp8"."""
        if form == "fp8":
            values, scales = reference.quantize_float8(weight, group)
            # Padded as bytes: not all of torch knows such floats.
            padded = F.pad(values.view(torch.uint8), (0, -values.shape[1] % group)).contiguous()
            values, scales = padded.view(torch.float8_e4m3fn), scales.bfloat16().contiguous()
            return cls(values, scales, weight.shape[1], 8, group)
        integers, scales = reference.quantize_matrix(weight.float(), form, group)
        matrix = QuantizedMatrix(integers.to(torch.int8), scales, MatrixFormat(form, group))
        return cls.from_matrix(matrix)

    @property
    def is_float8(self) -> bool:
        """Whether the values are floats."""
        return self.integers.dtype == torch.float8_e4m3fn

    def to(self, device: torch.device) -> QuantizedWeight:
        """The same matrix there."""
        return replace(self, integers=self.integers.to(device), scales=self.scales.to(device))

    def float(self) -> Tensor:
        """The values (N, K) in float32."""
        integers = self.integers
        if self.bits == 4:
            halves = [(integers & 15), (integers >> 4)]
            parts = [
                half.to(torch.int8).view(len(half), -1, self.group // 2) - 8 for half in halves
            ]
            integers = torch.stack(parts, dim=2).flatten(1)
        return reference.dequantize(integers.float(), self.scales.float(), self.group)[
            :, : self.inputs
        ]

    @property
    def shape(self) -> tuple[int, int]:
        """(N, K)."""
        return len(self.integers), self.inputs
