"""LayerNorm, alone and after the residual addition, beside torch's and a copy of the same bytes.

Few rows stay in the caches, as in a decode step; 65,536 come from memory.

    python benchmarks/kernels/triton/layer_norm.py
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

from gpt2fast.kernels.triton.layer_norm import layer_norm

WIDTHS = (768, 1024, 1280, 1600)
ROWS = (1, 128, 65_536)
EPSILON = 1e-5
COLD_ROWS = 4096


class Inputs(NamedTuple):
    """x, residual, to (T, C); weight, bias (C,); float16."""

    x: Tensor
    residual: Tensor | None
    weight: Tensor
    bias: Tensor
    to: tuple[Tensor, ...]


def make(rows: int, width: int, has_residual: bool, device: torch.device) -> Inputs:
    """Fresh inputs; a residual stream has a mean and outliers."""
    x, residual = (
        torch.randn(rows, width, device=device, dtype=torch.float16) * 3 + 1 for _ in range(2)
    )
    weight, bias = torch.randn(2, width, device=device, dtype=torch.float16)
    to = tuple(torch.empty_like(x) for _ in range(1 + has_residual)) if rows >= COLD_ROWS else ()
    return Inputs(x, residual if has_residual else None, weight, bias, to)


def ours(inputs: Inputs) -> tuple[Tensor, ...]:
    """(out,), or (sum, out) where there is a residual."""
    both = layer_norm(inputs.x, inputs.weight, inputs.bias, EPSILON, inputs.residual)
    return both if inputs.residual is not None else both[1:]


def plain(inputs: Inputs) -> tuple[Tensor, ...]:
    """The same in torch, in the dtype of the inputs."""
    x, residual, weight, bias, _ = inputs
    total = x if residual is None else x + residual
    out = F.layer_norm(total, (x.shape[1],), weight, bias, EPSILON)
    return (out,) if residual is None else (total, out)


def reference(inputs: Inputs) -> tuple[Tensor, ...]:
    """In float64, but for the sum, which is normalized as it is stored."""
    x, residual, weight, bias, _ = inputs
    total = (x if residual is None else x + residual).double()
    out = F.layer_norm(total, (x.shape[1],), weight.double(), bias.double(), EPSILON)
    return (out,) if residual is None else (total, out)


def copy(inputs: Inputs) -> None:
    """Moves what the LayerNorm must move."""
    for to, source in zip(inputs.to, (inputs.x, inputs.residual), strict=False):
        assert source is not None
        to.copy_(source)


def cases(device: torch.device) -> Iterator[Case]:
    """All widths, few rows first."""
    for rows in ROWS:
        for width in WIDTHS:
            for has_residual in (False, True):
                moved = 2 * rows * width * (4 if has_residual else 2)
                is_cold = rows >= COLD_ROWS
                yield Case(
                    case=f"layer_norm {width}{' +residual' if has_residual else ''} float16",
                    at=f"x{rows}",
                    make=partial(make, rows, width, has_residual, device),
                    calls={"gpt2fast": ours, "torch": plain},
                    reference=reference,
                    tolerance=5e-3,
                    bytes=moved,
                    rotating=moved if is_cold else 0.0,
                    yardsticks={"copy": copy} if is_cold else {},
                )


if __name__ == "__main__":
    raise SystemExit(main(cases, __doc__))
