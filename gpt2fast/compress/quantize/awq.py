"""AWQ (Lin et al. 2024, arXiv:2306.00978): channels of large inputs are rounded more finely.

A row of weights that is multiplied by s before rounding and whose input is divided by s has its
error divided by s, as long as the largest weight of the group is another. s is ``mean|x|^alpha``,
the exponent searched for under the rounding that follows, with scales clipped for the error of the
outputs. Where the inverse goes, ``smooth.py`` says.
Shapes: N outputs, K inputs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gpt2fast.compress.quantize.clip import round_clipped
from gpt2fast.compress.quantize.inputs import InputStatistics, damped, output_error
from gpt2fast.quantization import MatrixFormat

ALPHAS = tuple(step / 20 for step in range(20))
_OUTPUTS = 256  # that the search looks at: more tell the same
_LEAST = 1e-4  # of the mean magnitude: a channel that is hardly ever on has no say


def channel_factors(magnitude: Tensor, alpha: float) -> Tensor:
    """``magnitude^alpha`` (K,), about 1 in the middle of their range; all 1 at 0."""
    least = _LEAST * float(magnitude.mean()) or 1.0
    factors = magnitude.clamp(min=least).pow(alpha)
    return factors / (factors.max() * factors.min()).sqrt()


def best_factors(
    weight: Tensor,
    statistics: InputStatistics,
    form: MatrixFormat,
    damping: float,
    alphas: tuple[float, ...] | None = None,
) -> tuple[float, Tensor]:
    """The exponent of ``alphas`` (``ALPHAS``), and its factors (K,), under which weights (N, K) on
    clipped scales change the outputs on the calibration text least; judged by outputs spread over
    all of them."""
    hessian = statistics.hessian.float()
    weight = weight[:: max(1, len(weight) // _OUTPUTS)]
    best: tuple[float, float, Tensor] | None = None
    for alpha in ALPHAS if alphas is None else alphas:
        factors = channel_factors(statistics.magnitude, alpha)
        seen = damped(hessian / torch.outer(factors, factors), damping)
        stored = round_clipped(weight * factors, form, seen).dequantize() / factors
        loss = output_error(stored - weight, hessian)
        if best is None or loss < best[0]:
            best = loss, alpha, factors
    assert best is not None
    return best[1], best[2]
