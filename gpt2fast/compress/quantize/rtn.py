"""Round to nearest: what the loader does with a float checkpoint."""

from __future__ import annotations

from torch import Tensor

from gpt2fast.compress.quantize.grid import extreme_scales, round_to
from gpt2fast.compress.state.model import QuantizedMatrix
from gpt2fast.quantization import MatrixFormat


def round_to_nearest(weight: Tensor, form: MatrixFormat) -> QuantizedMatrix:
    """Weights (N, K) to the nearest integers, nothing of a group being clipped."""
    return round_to(weight, extreme_scales(weight, form), form)
