"""Factors that move between a LayerNorm and the matrix behind it: the function stays the same.

A channel that is huge in the activations spoils the scale of its group there, one that is huge in
the weights spoils it here; moved half-way it spoils neither. Shapes: C channels, N outputs.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gpt2fast.model.gpt2 import Block, Conv1D

NORMS = {"attn.c_attn": "ln_1", "mlp.c_fc": "ln_2"}  # part -> the LayerNorm before it
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


def smooth(block: Block, part: str, largest: Tensor, alpha: float) -> None:
    """SmoothQuant (Xiao et al. 2023, arXiv:2211.10438): ``max|x|^alpha / max|w|^(1 - alpha)``, of
    the ``largest`` inputs (C,) on calibration text. At 1 all activations are of a size, at 0 all
    rows of the weights."""
    norm, matrix = parts_of(block, part)
    size = matrix.weight.abs().amax(1)
    usable = (size > _TINY) & (largest > _TINY)
    factors = largest.pow(alpha) / size.pow(1.0 - alpha)
    move(norm, matrix, torch.where(usable, factors, 1.0))


def parts_of(block: Block, part: str) -> tuple[nn.LayerNorm, Conv1D]:
    """The LayerNorm before the matrix ``part``, and the matrix."""
    norm, matrix = block.get_submodule(NORMS[part]), block.get_submodule(part)
    assert isinstance(norm, nn.LayerNorm)
    assert isinstance(matrix, Conv1D)
    return norm, matrix
