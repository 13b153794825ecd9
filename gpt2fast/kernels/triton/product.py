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
_PROGRAMS = 264  # of a product of one row, where it has so many outputs: two for each of an H200
_MOST_OUTPUTS = 16
_LEAST_TILE = 2048  # weights that are worth a program

Constants = dict[str, Any]


def row_class(rows: int) -> int:
    """Numbers of rows that take the same kernel: few, a batch, a larger one, many. Each class more
    is a kernel more to compile for every matrix."""
    return next((most for most in (16, 64) if rows <= most), 128) if rows > MATVEC_ROWS else 1


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
        """Tile and warps of a product of one row: enough programs to fill the chip, and 8 or 16 KB
        of weights asked for at a time by each where there are so many."""
        tile = min(16384 * 8 // self.bits, 16384)
        unit = self.group or 1
        wanted = max(1, self.outputs // _PROGRAMS)
        block_n = min(_MOST_OUTPUTS, 1 << (wanted.bit_length() - 1))
        whole = unit * int(triton.next_power_of_2(triton.cdiv(self.inputs, unit)))
        # Longer rows of bytes would not fit into the registers.
        block_k = min(whole, max(unit, tile // block_n), 2048 if self.bits == 8 else tile)
        block_n = max(block_n, min(64, _LEAST_TILE // block_k))
        # 64 to 128 bytes a thread.
        warps = min(max(block_n * block_k * self.bits // 8 // 2048, 1), 8)
        blocks: Constants = {"BLOCK_K": block_k, "BLOCK_N": block_n}
        return blocks | {"STATISTICS_K": min(triton.next_power_of_2(self.inputs), 1024)}, warps

    def matmul_blocks(self, rows: int, dtype: torch.dtype) -> tuple[Constants, int, int]:
        """Tile, warps and stages of a product of many rows. Products of float32 are not for the
        matrix units: their operands wait in registers."""
        is_float32 = dtype == torch.float32
        warps, stages = 4, 2
        block_m = max(16, triton.next_power_of_2(rows))
        if self.bits <= 8:
            block_m, block_k, block_n = min(block_m, 16 if is_float32 else 64), self.group, 32
            stages = 1 if is_float32 else 2
        elif rows <= 64:  # the weights are read once: as many programs as outputs allow
            block_k, block_n = 16 if is_float32 else 128, 16
            warps, stages = 8 if block_m > 32 else 4, 2 if is_float32 else 3
        elif is_float32:
            block_m, block_k, block_n, warps = 64, 16, 64, 8
        else:
            block_m, block_k, block_n, warps, stages = 128, 64, 128, 8, 3
        blocks: Constants = {"BLOCK_M": block_m, "BLOCK_K": block_k, "BLOCK_N": block_n}
        # Products of float32 are IEEE's and not the matrix units' tf32.
        blocks |= {"STATISTICS_K": min(triton.next_power_of_2(self.inputs), 64)}
        return blocks | {"PRECISION": "ieee"}, warps, stages


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
        self.norm = norm is not None
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
        return sizes_of(self.weight, self.norm)

    @property
    def weight_arguments(self) -> tuple[Tensor, Tensor]:
        """What kernels take for weight_ptr and scales_ptr."""
        if isinstance(self.weight, QuantizedWeight):
            return self.weight.integers, self.weight.scales
        return self.weight, self.weight
