"""A matrix of the model with what belongs to it, and how its products are cut into programs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import triton
from torch import Tensor

from gpt2fast.errors import OptionError
from gpt2fast.kernels.triton.quantized_weight import QuantizedWeight

MATVEC_ROWS = 4  # up to so many rows each is a matrix-vector product
_PROGRAMS = 264  # of a product of one row, where it has so many outputs: two for each of an H100
_MANY_OUTPUTS = 16384  # a head's
_LEAST_TILE = 2048  # weights that are worth a program

Constants = dict[str, Any]


@dataclass(frozen=True, eq=False)
class LayerNorm:
    """What is applied to the inputs of a product: weight (K,), bias (K,), epsilon."""

    weight: Tensor
    bias: Tensor
    epsilon: float


@dataclass(frozen=True)
class Sizes:
    """K inputs and N outputs of a matrix, and what it is stored as: ``bits`` 32 or 16 for floating
    point, 8 or 4 in groups of ``group`` inputs; whether a LayerNorm comes before; whether 8
    bits are a float."""

    inputs: int
    outputs: int
    bits: int
    group: int = 0
    norm: bool = False
    float8: bool = False

    @property
    def constants(self) -> Constants:
        """What every kernel over the matrix has."""
        return {
            "K": self.inputs,
            "N": self.outputs,
            "BITS": self.bits,
            "GROUP": self.group,
            "NORM": self.norm,
        }

    def weight_types(self, element: str) -> dict[str, str]:
        """Types of the kernels' arguments weight_ptr and scales_ptr; ``element`` of the inputs."""
        bytes_ = "*fp8e4nv" if self.float8 else "*i8"
        stored = {8: bytes_, 4: "*u8"}.get(self.bits, f"*{element}")
        return {"weight_ptr": stored, "scales_ptr": "*bf16" if self.group else stored}

    def matvec_blocks(self) -> tuple[Constants, int]:
        """Tile and warps of a product of one row: whole rows of the matrix, or long stretches of
        them, and many small programs. What was fastest, or nearly, on an H100 for the sizes of
        gpt2 and gpt2-xl."""
        unit = self.group or 1
        whole = unit * int(triton.next_power_of_2(triton.cdiv(self.inputs, unit)))
        is_small = self.bits <= 8
        if self.outputs > _MANY_OUTPUTS:  # programs that choose a token meet at one counter
            return {"BLOCK_K": max(unit, min(whole, 256)), "BLOCK_N": 16}, 2 if is_small else 8
        block_n = 4 if is_small else 2
        while block_n > 1 and self.outputs < block_n * _PROGRAMS:
            block_n //= 2
        if whole <= 1024:
            block_k, warps = whole, 1
        elif is_small:
            block_k, warps = min(whole, 65536 // (block_n * self.bits)), 4
        else:
            block_k, warps = (1024, 4) if self.outputs > 2048 else (2048, 8)
        # Of a narrow matrix a program has more rows.
        block_n = max(block_n, min(64, _LEAST_TILE // block_k))
        warps = min(8, max(1, warps * max(self.bits // 16, 1)))
        return {"BLOCK_K": block_k, "BLOCK_N": block_n}, warps


def sizes_of(weight: Tensor | QuantizedWeight, norm: bool = False) -> Sizes:
    """Sizes and format of a matrix (N, K)."""
    outputs, inputs = weight.shape
    if isinstance(weight, QuantizedWeight):
        return Sizes(inputs, outputs, weight.bits, weight.group, norm, weight.is_float8)
    return Sizes(inputs, outputs, 8 * weight.element_size(), norm=norm)


class Product:
    """A matrix (N, K) with its bias and the LayerNorm of its inputs, if any: what ``linear`` and
    ``head`` multiply by.

    Args:
        weight: (N, K), or integers.
        bias: (N,), or None for zeros.
        norm: of the inputs; its bias is moved behind the matrix once.
    """

    def __init__(
        self,
        weight: Tensor | QuantizedWeight,
        bias: Tensor | None = None,
        norm: LayerNorm | None = None,
    ) -> None:
        self.weight = weight
        outputs, inputs = weight.shape
        if bias is not None and bias.shape != (outputs,):
            raise OptionError(f"a bias {tuple(bias.shape)} does not fit {outputs} outputs")
        if norm is not None and norm.weight.shape != (inputs,):
            raise OptionError(
                f"a LayerNorm {tuple(norm.weight.shape)} does not fit {inputs} inputs"
            )
        self.device = (weight if isinstance(weight, Tensor) else weight.integers).device
        self.bias = torch.zeros(outputs, device=self.device) if bias is None else bias.float()
        self.gain = self.bias if norm is None else norm.weight
        self.column_sums = self.bias
        self.epsilon = 0.0 if norm is None else norm.epsilon
        self.norm = norm
        self.no_shift = self.gain if norm is None else torch.zeros_like(norm.bias)
        if norm is not None:
            # In double precision: this is done once, and every step inherits its error.
            both = torch.stack([norm.weight.double(), norm.bias.double()], dim=1)
            values = weight if isinstance(weight, Tensor) else weight.float()
            sums = torch.cat([part.double() @ both for part in values.split(4096)])
            self.column_sums = sums[:, 0].float().contiguous()
            self.bias = (self.bias + sums[:, 1]).float().contiguous()

    @cached_property
    def sizes(self) -> Sizes:
        """Its sizes and format."""
        return sizes_of(self.weight, self.norm is not None)

    @property
    def weight_arguments(self) -> tuple[Tensor, Tensor]:
        """What kernels take for weight_ptr and scales_ptr."""
        if isinstance(self.weight, QuantizedWeight):
            return self.weight.integers, self.weight.scales
        return self.weight, self.weight
