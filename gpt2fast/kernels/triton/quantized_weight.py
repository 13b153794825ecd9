"""Matrices of 8-bit or 4-bit integers, with a scale for each output and group of inputs.

Activations stay in floating point: on a GPU integers save bytes, and bytes are what few rows wait
for.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from gpt2fast.kernels import reference


@dataclass(frozen=True)
class QuantizedWeight:
    """A matrix (N, K) in G groups of inputs.

    8 bits: int8 (N, G * group), zero behind K. 4 bits: a byte holds input j of a group's first
    half, plus 8, in its low half, and input j of the second half in its high half: uint8
    (N, G * group / 2), so that both halves of a byte meet runs of inputs.
    """

    integers: Tensor
    scales: Tensor  # (N, G) bfloat16
    inputs: int
    bits: int
    group: int

    @classmethod
    def from_integers(
        cls, integers: Tensor, scales: Tensor, bits: int, group: int
    ) -> QuantizedWeight:
        """Integers (N, K), -127 .. 127 or -8 .. 7, and scales (N, G): as they are."""
        outputs, inputs = integers.shape
        integers = F.pad(integers, (0, -inputs % group)).to(torch.int8)
        if bits == 4:
            halves = (integers.view(outputs, -1, 2, group // 2) + 8).to(torch.uint8)
            integers = (halves[:, :, 0] | halves[:, :, 1] << 4).flatten(1)
        return cls(integers.contiguous(), scales.bfloat16().contiguous(), inputs, bits, group)

    @classmethod
    def from_float(cls, weight: Tensor, bits: int, group: int) -> QuantizedWeight:
        """Weights (N, K) to nearest, as the CPU runner rounds them."""
        integers, scales = reference.quantize_matrix(weight.float(), f"int{bits}", group)
        return cls.from_integers(integers, scales, bits, group)

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

    @property
    def num_bytes(self) -> int:
        """Bytes of integers and scales."""
        return self.integers.nbytes + self.scales.nbytes
