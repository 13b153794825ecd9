"""Factors and shifts that move between a matrix and what makes its inputs: the function stays the
same.

A channel that is huge in the activations spoils the scale of its group there, one that is huge in
the weights spoils it here; moved half-way it spoils neither. A channel that is far from zero wastes
its steps on what never changes. The inverse of a factor, and a shift, go where that is exact: into
the LayerNorm before c_attn and c_fc, into the values that c_attn makes for attn.c_proj, whose
weights add up to 1. Nothing linear is before mlp.c_proj. Shapes: K channels, N outputs, R rows.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gpt2fast.compress.quantize.rtn import round_to_nearest
from gpt2fast.kernels import reference
from gpt2fast.model.gpt2 import Block, Conv1D
from gpt2fast.quantization import MatrixFormat

NORMS = {"attn.c_attn": "ln_1", "mlp.c_fc": "ln_2"}  # part -> the LayerNorm before it
VALUES = "attn.c_proj"  # its inputs are weighted sums of c_attn's values
ALPHAS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)  # that ``condition`` tries
ROWS = 1024  # of inputs that it looks at
_OUTPUTS = 256  # likewise: more tell the same
_TINY = 1e-20


def move(norm: nn.LayerNorm, matrix: Conv1D, factors: Tensor) -> None:
    """Divide the LayerNorm's output by ``factors`` (C,) and multiply the matrix's rows by them."""
    norm.weight.div_(factors)
    norm.bias.div_(factors)
    matrix.weight.mul_(factors[:, None])


def balance(block: Block, part: str) -> None:
    """The factors of the loader (csrc/decoder/weights.cpp), which knows no text: a LayerNorm's
    output has the magnitude of its weight."""
    norm, matrix = parts_of(block, part)
    size = matrix.weight.double().square().mean(1).sqrt().float()
    gain = norm.weight.abs()
    usable = (size > _TINY) & (gain > _TINY) & torch.isfinite(size)
    # By way of float64, since torch's root of a float32 is not always the nearest one.
    factors = torch.sqrt((gain / size).double()).float()
    move(norm, matrix, torch.where(usable, factors, 1.0))


def scale_channels(block: Block, part: str, factors: Tensor) -> None:
    """Multiply the rows of ``part`` by ``factors`` (K,) and divide what makes its inputs."""
    if part in NORMS:
        move(*parts_of(block, part), factors)
        return
    width = len(factors)  # the values are the last third of what c_attn makes
    block.attn.c_attn.weight[:, -width:].div_(factors)
    block.attn.c_attn.bias[-width:].div_(factors)
    block.attn.c_proj.weight.mul_(factors[:, None])


def shift_channels(block: Block, part: str, shift: Tensor) -> None:
    """Take ``shift`` (K,) off the inputs of ``part``, and put what it makes of it into its bias."""
    matrix = block.get_submodule(part)
    assert isinstance(matrix, Conv1D)
    before = parts_of(block, part)[0].bias if part in NORMS else block.attn.c_attn.bias
    before[-len(shift) :].sub_(shift)  # the values are the last third of what c_attn makes
    matrix.bias.add_(shift @ matrix.weight)


def smoothing_factors(weight: Tensor, largest: Tensor, alpha: float) -> Tensor:
    """SmoothQuant (Xiao et al. 2023, arXiv:2211.10438): ``max|x|^alpha / max|w|^(1 - alpha)`` (K,)
    for weights (N, K) and the ``largest`` inputs (K,) on calibration text. At 1 all activations are
    of a size, at 0 all columns of the weights."""
    size = weight.abs().amax(0)
    usable = (size > _TINY) & (largest > _TINY)
    return torch.where(usable, largest.pow(alpha) / size.pow(1.0 - alpha), 1.0)


def condition(weight: Tensor, rows: Tensor, form: MatrixFormat) -> tuple[Tensor, Tensor]:
    """The shift and the factors (K,), of a few shifts and of ``ALPHAS``, none at all among them,
    under which weights (N, K) and inputs (R, K), both rounded, change the outputs least."""
    weight = weight[:: max(1, len(weight) // _OUTPUTS)]
    middle = (rows.amax(0) + rows.amin(0)) / 2
    best = nothing = (torch.zeros_like(middle), torch.ones_like(middle))
    least = float("inf")
    for shift in (nothing[0], rows.mean(0), middle):
        shifted = rows - shift
        exact, largest = shifted @ weight.T, shifted.abs().amax(0)
        candidates = (smoothing_factors(weight, largest, alpha) for alpha in ALPHAS)
        for factors in (nothing[1], *candidates):
            stored = round_to_nearest((weight * factors).contiguous(), form).dequantize()
            inputs = reference.round_rows(shifted / factors, form.name, form.group_size)
            loss = float((inputs @ stored.T - exact).square().sum(dtype=torch.float64))
            if loss < least:
                least, best = loss, (shift, factors)
    return best


def parts_of(block: Block, part: str) -> tuple[nn.LayerNorm, Conv1D]:
    """The LayerNorm before the matrix ``part``, and the matrix."""
    norm, matrix = block.get_submodule(NORMS[part]), block.get_submodule(part)
    assert isinstance(norm, nn.LayerNorm)
    assert isinstance(matrix, Conv1D)
    return norm, matrix
