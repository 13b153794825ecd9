"""Training weights that have to obey: to lie on the grid of a format, or to stay zero.

Each constraint maps the weights being trained to those that the network computes with. Gradients
pass a rounding as if it were not there (Bengio et al. 2013). Shapes: a matrix has N outputs, K
inputs and G groups of inputs that share a scale.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.func import functional_call

from gpt2fast.compress.state.model import QuantizedMatrix
from gpt2fast.errors import OptionError
from gpt2fast.kernels import reference
from gpt2fast.model.gpt2 import GPT2
from gpt2fast.quantization import EMBEDDING, HEAD, INTEGER_RANGES, MatrixFormat


class Constraint(Protocol):
    """How one parameter is seen by the network."""

    def __call__(self, weight: Tensor) -> Tensor:
        """The parameter as the network is to see it."""

    def to(self, device: torch.device) -> None:
        """Move what the constraint holds."""

    def tensors(self) -> dict[str, Tensor]:
        """What it depends on, for a fingerprint."""


class KeepZeros:
    """Weights that are zero stay so: recovery of a model that was pruned weight by weight."""

    def __init__(self, weight: Tensor) -> None:
        self.kept = weight.detach() != 0

    def __call__(self, weight: Tensor) -> Tensor:
        """The weights, zero where they were; no gradient reaches those."""
        return weight * self.kept

    def to(self, device: torch.device) -> None:
        """Move the mask."""
        self.kept = self.kept.to(device)

    def tensors(self) -> dict[str, Tensor]:
        """The mask."""
        return {"kept": self.kept}


class OnGrid:
    """Weights are rounded to the format and the scales of ``matrix``, which stay as they are: what
    is computed with before the first step is exactly what ``matrix`` stands for.

    ``transposed`` says that the parameter is (K, N), as in a Conv1D.
    """

    def __init__(self, matrix: QuantizedMatrix, transposed: bool) -> None:
        if matrix.format.name not in INTEGER_RANGES:
            raise OptionError(
                f"weights cannot be trained on the grid of {matrix.format.label}; integer formats "
                f"can: {', '.join(INTEGER_RANGES)}"
            )
        self.format, self.scales, self.transposed = matrix.format, matrix.scales, transposed

    def __call__(self, weight: Tensor) -> Tensor:
        """The nearest weights on the grid. Their gradient is handed on to ``weight``."""
        values = reference.dequantize(self._round(weight), self.scales, self.format.group_size)
        return _StraightThrough.apply(weight, values.T if self.transposed else values)  # type: ignore[no-any-return, no-untyped-call]

    def to(self, device: torch.device) -> None:
        """Move the scales."""
        self.scales = self.scales.to(device)

    def tensors(self) -> dict[str, Tensor]:
        """The scales."""
        return {f"scales of {self.format.label}": self.scales}

    def matrix(self, weight: Tensor) -> QuantizedMatrix:
        """What ``weight`` is when it is stored."""
        return QuantizedMatrix(self._round(weight).to(torch.int8), self.scales, self.format)

    def _round(self, weight: Tensor) -> Tensor:
        """Integers (N, K), in float32."""
        rows = (weight.detach().T if self.transposed else weight.detach()).float()
        scales = self.scales.repeat_interleave(self.format.group_size, -1)[:, : rows.shape[1]]
        inverse = torch.where(scales == 0.0, 0.0, 1.0 / scales)
        return torch.round(rows * inverse).clamp_(*INTEGER_RANGES[self.format.name])


class _StraightThrough(torch.autograd.Function):
    """``values`` forward, as if they were ``weight`` backward."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, values: Tensor) -> Tensor:
        return values.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


class Constrained(nn.Module):
    """A network that computes with constrained weights. Its own parameters, under their own names,
    are what is trained; ``apply_constraints`` makes them obey for good."""

    def __init__(self, network: GPT2, constraints: Mapping[str, Constraint]) -> None:
        super().__init__()
        self.network, self.constraints = network, dict(constraints)

    def forward(self, token_ids: Tensor) -> Tensor:
        """token_ids (B, T) -> logits (B, T, V)."""
        logits: Tensor = functional_call(self.network, dict(self._obeying()), (token_ids,))
        return logits

    def _obeying(self) -> Iterator[tuple[str, Tensor]]:
        for name, constraint in self.constraints.items():
            yield name, constraint(self.network.get_parameter(name))

    @torch.no_grad()
    def apply_constraints(self) -> None:
        """Give the network the weights that it has been computing with."""
        for name, values in self._obeying():
            self.network.get_parameter(name).copy_(values)


def quantization_aware(network: GPT2, formats: Mapping[str, MatrixFormat]) -> dict[str, OnGrid]:
    """Constraints that put matrices, by canonical name, on the grids of ``formats``, with the
    scales of rounding to nearest."""
    return {
        name: OnGrid(_nearest(network, name, f), _is_conv1d(name)) for name, f in formats.items()
    }


def on_grids(matrices: Mapping[str, QuantizedMatrix]) -> dict[str, OnGrid]:
    """Constraints that keep the scales of matrices that are quantized already."""
    return {name: OnGrid(matrix, _is_conv1d(name)) for name, matrix in matrices.items()}


def _nearest(network: GPT2, name: str, form: MatrixFormat) -> QuantizedMatrix:
    weight = network.get_parameter(name).detach()
    rows = weight.T if _is_conv1d(name) else weight
    integers, scales = reference.quantize_matrix(rows, form.name, form.group_size)
    return QuantizedMatrix(integers.to(torch.int8), scales, form)


def _is_conv1d(name: str) -> bool:
    return name not in (EMBEDDING, HEAD)
