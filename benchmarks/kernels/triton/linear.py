"""The four products of a GPT-2 block with what stands around them, from memory, beside torch.

float16, int8 in groups of 64 and int4 in groups of 128; the weights rotate among more copies than
the second-level cache holds, since a model's never stay there. Rivals: torch's float16 product with
its LayerNorm, activation and addition, and the bare product.

    python benchmarks/kernels/triton/linear.py [--match int4]
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache, partial
from typing import NamedTuple

import paths  # noqa: F401
import torch
import torch.nn.functional as F
from gpu.case import Case, main
from torch import Tensor

from gpt2fast.bench.sizes import SIZES
from gpt2fast.kernels.reference import store_matrix
from gpt2fast.kernels.triton.linear import linear
from gpt2fast.kernels.triton.product import LayerNorm, Product
from gpt2fast.kernels.triton.quantized_weight import QuantizedWeight

MODELS = ("gpt2", "gpt2-xl")
ROWS = (1, 8, 32, 128)
FORMATS = {"float16": (16, 0), "int8": (8, 64), "int4": (4, 128), "fp8": (8, 64)}  # bits, group
EPSILON = 1e-5


class Shape(NamedTuple):
    """One product of a block: K inputs, N outputs, and what stands around it."""

    name: str
    inputs: int
    outputs: int
    norm: bool = False
    activation: str = "linear"
    residual: bool = False


class Inputs(NamedTuple):
    """x (T, K), the matrix as ours and as float16 (N, K), bias (N,), residual (T, N) or None."""

    x: Tensor
    product: Product
    weight: Tensor
    bias: Tensor
    norm: LayerNorm | None
    residual: Tensor | None


def shapes(width: int) -> tuple[Shape, ...]:
    """The products of a block of this width."""
    return (
        Shape("qkv", width, 3 * width, norm=True),
        Shape("out", width, width, residual=True),
        Shape("fc", width, 4 * width, norm=True, activation="gelu_new"),
        Shape("mlp", 4 * width, width, residual=True),
    )


@cache
def stored(inputs: int, outputs: int, name: str) -> tuple[Tensor | QuantizedWeight, Tensor]:
    """A random matrix (N, K) in a format, on the CPU, and its values in float32."""
    bits, group = FORMATS[name]
    exact = torch.randn(outputs, inputs) * 0.02
    if bits == 16:
        half = exact.half()
        return half, half.float()
    return QuantizedWeight.from_float(exact, name, group), store_matrix(exact, name, group)


class Maker:
    """Sets of inputs of one case, which share all but the memory that their weights lie in."""

    def __init__(self, shape: Shape, name: str, rows: int, device: torch.device) -> None:
        self.shape, self.name, self.rows, self.device = shape, name, rows, device
        self._first: Inputs | None = None

    def __call__(self) -> Inputs:
        """Another set; x and the residual are fresh."""
        first = self._first = self._first or self._build()
        kept, half = first.product.weight, first.weight
        if isinstance(kept, Tensor):
            mine: Tensor | QuantizedWeight = (half := kept.clone())
        else:
            mine = replace(kept, integers=kept.integers.clone(), scales=kept.scales.clone())
        return first._replace(
            x=self._normal(self.rows, self.shape.inputs),
            product=Product(mine, first.bias, first.norm),
            weight=half,
            residual=self._residual(),
        )

    def _build(self) -> Inputs:
        inputs, outputs = self.shape.inputs, self.shape.outputs
        weight, values = stored(inputs, outputs, self.name)
        weight, half = weight.to(self.device), values.to(self.device).half()
        bias, norm = self._normal(outputs), None
        if self.shape.norm:
            norm = LayerNorm(1 + 0.1 * self._normal(inputs), self._normal(inputs), EPSILON)
        x = self._normal(self.rows, inputs)
        return Inputs(x, Product(weight, bias, norm), half, bias, norm, self._residual())

    def _residual(self) -> Tensor | None:
        return self._normal(self.rows, self.shape.outputs) if self.shape.residual else None

    def _normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, device=self.device, dtype=torch.float16)


def ours(activation: str, inputs: Inputs) -> Tensor:
    """One launch for few rows; for many LayerNorm, product and what comes behind."""
    return linear(inputs.x, inputs.product, activation=activation, residual=inputs.residual)


def plain(activation: str, inputs: Inputs) -> Tensor:
    """The same in torch, an operation a launch."""
    x, _, weight, bias, norm, residual = inputs
    if norm is not None:
        x = F.layer_norm(x, x.shape[1:], norm.weight, norm.bias, norm.epsilon)
    y = F.linear(x, weight, bias)
    if activation == "gelu_new":
        y = F.gelu(y, approximate="tanh")
    return y if residual is None else residual + y


def bare(inputs: Inputs) -> Tensor:
    """The product alone."""
    return F.linear(inputs.x, inputs.weight, inputs.bias)


def reference(activation: str, name: str, inputs: Inputs) -> Tensor:
    """In float64, from the values that the integers stand for."""
    x, _, weight, bias, norm, residual = inputs
    values = stored(weight.shape[1], weight.shape[0], name)[1].to(x.device).double()
    x = x.double()
    if norm is not None:
        gain, shift = norm.weight.double(), norm.bias.double()
        x = F.layer_norm(x, x.shape[1:], gain, shift, norm.epsilon)
    y = x @ values.T + bias.double()
    if activation == "gelu_new":
        y = F.gelu(y, approximate="tanh")
    return y if residual is None else residual.double() + y


def cases(device: torch.device) -> Iterator[Case]:
    """All formats of a product side by side, one row first."""
    for rows in ROWS:
        for model in MODELS:
            for shape in shapes(SIZES[model][0]):
                for name in FORMATS:
                    yield _case(model, shape, name, rows, device)


def _case(model: str, shape: Shape, name: str, rows: int, device: torch.device) -> Case:
    bits, group = FORMATS[name]
    size = shape.inputs * shape.outputs
    weight_bytes = size * bits / 8 + (2 * size / group if group else 0)
    beside = 2 * rows * (shape.inputs + shape.outputs * (2 if shape.residual else 1))
    is_half = name == "float16"
    calls = {"gpt2fast": partial(ours, shape.activation)}
    if is_half:
        calls["torch"] = partial(plain, shape.activation)
    return Case(
        case=f"linear {model} {shape.name} {name}",
        at=f"x{rows}",
        make=Maker(shape, name, rows, device),
        calls=calls,
        reference=partial(reference, shape.activation, name),
        # The normalized inputs may be rounded to float16 before they are multiplied.
        tolerance=5e-3,
        bytes=weight_bytes + beside,
        flops=0.0 if rows <= 32 else 2.0 * rows * size,
        rotating=weight_bytes,
        yardsticks={"torch product alone": bare} if is_half else {},
    )


if __name__ == "__main__":
    raise SystemExit(main(cases, __doc__))
