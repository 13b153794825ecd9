"""The integers that a stored weight may be, and what a matrix is on them.

A weight is integer * scale; ``group_size`` consecutive inputs of an output share a scale, which is
a bfloat16 number. int4 and int3 reach one step further on one side: the sign of the scale says
which.
Shapes: N outputs, K inputs, G groups of inputs.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from gpt2fast.compress.state.model import QuantizedMatrix
from gpt2fast.kernels import reference
from gpt2fast.quantization import INTEGER_RANGES, MatrixFormat

_TINY = 1e-30  # a group without a larger magnitude is stored as zeros


def grouped(x: Tensor, form: MatrixFormat) -> Tensor:
    """(..., K) -> (..., G, group): the last group is filled up with zeros."""
    short = -x.shape[-1] % form.group_size
    return F.pad(x, (0, short)).reshape(*x.shape[:-1], -1, form.group_size)


def spread(scales: Tensor, form: MatrixFormat, inputs: int) -> Tensor:
    """Scales (N, G) -> (N, K), the scale of each input's group."""
    return scales.repeat_interleave(form.group_size, -1)[:, :inputs]


def extreme_scales(weight: Tensor, form: MatrixFormat) -> Tensor:
    """The scales (N, G) of rounding to nearest: the largest magnitude of a group is the extreme
    integer, as ``kernels.reference.quantize_matrix`` and the loader have it."""
    return reference.quantize_matrix(weight, form.name, form.group_size)[1]


def inverse(scales: Tensor) -> Tensor:
    """1 / scale, and 0 for a scale of 0."""
    return torch.where(scales.abs() < _TINY, 0.0, 1.0 / scales)


def round_to(weight: Tensor, scales: Tensor, form: MatrixFormat) -> QuantizedMatrix:
    """Weights (N, K) to the nearest integers under the given scales (N, G)."""
    steps = spread(inverse(scales), form, weight.shape[-1])
    integers = torch.round(weight * steps).clamp(*INTEGER_RANGES[form.name]).to(torch.int8)
    return QuantizedMatrix(integers, scales, form)
