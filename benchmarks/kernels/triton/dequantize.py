"""Small weights as float16, from memory.

python benchmarks/kernels/triton/dequantize.py
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import paths  # noqa: F401
import torch
from gpu.case import Case, main
from torch import Tensor

from gpt2fast.bench.sizes import SIZES
from gpt2fast.kernels.reference import store_matrix
from gpt2fast.kernels.triton.dequantize import dequantize
from gpt2fast.kernels.triton.quantized_weight import QuantizedWeight

FORMATS = {"int8": (8, 64), "int4": (4, 128), "fp8": (8, 64)}  # bits, inputs of a group


class Inputs(NamedTuple):
    """The matrix, and its values (N, K) in float32."""

    weight: QuantizedWeight
    values: Tensor


def make(outputs: int, inputs: int, name: str, device: torch.device) -> Inputs:
    """A fresh matrix."""
    exact, group = torch.randn(outputs, inputs, device=device) * 0.02, FORMATS[name][1]
    return Inputs(QuantizedWeight.from_float(exact, name, group), store_matrix(exact, name, group))


def ours(inputs: Inputs) -> Tensor:
    """(N, K) in float16."""
    return dequantize(inputs.weight, torch.float16)


def reference(inputs: Inputs) -> Tensor:
    """In float32."""
    return inputs.values


def cases(device: torch.device) -> Iterator[Case]:
    """The largest matrix of a block."""
    for model in ("gpt2", "gpt2-xl"):
        width = SIZES[model][0]
        for name, (bits, group) in FORMATS.items():
            read = 4 * width * width * (bits / 8 + 2 / group)
            yield Case(
                case=f"dequantize {model} {name}",
                at=f"{width}x{4 * width}",
                make=partial(make, 4 * width, width, name, device),
                calls={"gpt2fast": ours},
                reference=reference,
                tolerance=2e-3,
                bytes=read + 8 * width * width,
                rotating=read,
            )


if __name__ == "__main__":
    raise SystemExit(main(cases, __doc__))
