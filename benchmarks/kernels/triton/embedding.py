"""The embeddings of tokens and positions, beside torch's lookups.

python benchmarks/kernels/triton/embedding.py
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import paths  # noqa: F401
import torch
import torch.nn.functional as F
from gpu.case import Case, main
from torch import Tensor

from gpt2fast.bench.sizes import SIZES
from gpt2fast.kernels.triton.embedding import embedding
from gpt2fast.kernels.triton.product import Product

MODELS = ("gpt2", "gpt2-xl")
ROWS = (1, 32, 512)
VOCABULARY, POSITIONS = 50257, 1024


class Inputs(NamedTuple):
    """tokens, positions (T,) int32; tables (V, C) and (P, C), float16."""

    tokens: Tensor
    positions: Tensor
    table: Product
    weight: Tensor
    position_weight: Tensor


def make(rows: int, table: Product, weight: Tensor, position_weight: Tensor) -> Inputs:
    """Fresh tokens and positions."""
    device = weight.device
    tokens = torch.randint(VOCABULARY, (rows,), device=device, dtype=torch.int32)
    positions = torch.randint(POSITIONS, (rows,), device=device, dtype=torch.int32)
    return Inputs(tokens, positions, table, weight, position_weight)


def ours(inputs: Inputs) -> Tensor:
    """(T, C)."""
    return embedding(inputs.tokens, inputs.positions, inputs.table, inputs.position_weight)


def plain(inputs: Inputs) -> Tensor:
    """The same in torch."""
    rows = F.embedding(inputs.tokens, inputs.weight)
    return rows + F.embedding(inputs.positions, inputs.position_weight)


def reference(inputs: Inputs) -> Tensor:
    """In float32."""
    rows = inputs.weight[inputs.tokens.long()].float()
    return rows + inputs.position_weight[inputs.positions.long()].float()


def cases(device: torch.device) -> Iterator[Case]:
    """Few rows first."""
    for model in MODELS:
        width = SIZES[model][0]
        weight, position_weight = (
            torch.randn(count, width, device=device, dtype=torch.float16)
            for count in (VOCABULARY, POSITIONS)
        )
        table = Product(weight)
        for rows in ROWS:
            yield Case(
                case=f"embedding {model} float16",
                at=f"x{rows}",
                make=partial(make, rows, table, weight, position_weight),
                calls={"gpt2fast": ours, "torch": plain},
                reference=reference,
                tolerance=5e-3,
                bytes=6.0 * rows * width,
            )


if __name__ == "__main__":
    raise SystemExit(main(cases, __doc__))
