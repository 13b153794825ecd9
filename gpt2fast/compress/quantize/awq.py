"""AWQ (Lin et al. 2024, arXiv:2306.00978): channels of large inputs are rounded more finely.

A row of weights that is multiplied by s before rounding and whose input is divided by s has its
error divided by s, as long as the largest weight of the group is another. s is ``mean|x|^alpha``,
the exponent searched for. The inverse goes where it is exact: into the LayerNorm before c_attn and
c_fc, into the values that c_attn makes for attn.c_proj. Nothing linear is before mlp.c_proj.
Shapes: N outputs, K inputs.
"""

from __future__ import annotations

from torch import Tensor

from gpt2fast.compress.quantize.inputs import InputStatistics, output_error
from gpt2fast.compress.quantize.rtn import round_to_nearest
from gpt2fast.compress.quantize.smooth import NORMS, move, parts_of
from gpt2fast.model.gpt2 import Block
from gpt2fast.quantization import MatrixFormat

ALPHAS = tuple(step / 20 for step in range(20))
SCALED_PARTS = ("attn.c_attn", "attn.c_proj", "mlp.c_fc")


def channel_factors(magnitude: Tensor, alpha: float) -> Tensor:
    """``magnitude^alpha`` (K,), about 1 in the middle of their range; all 1 at 0."""
    factors = magnitude.clamp(min=1e-4).pow(alpha)
    return factors / (factors.max() * factors.min()).sqrt()


def best_factors(
    weight: Tensor,
    statistics: InputStatistics,
    form: MatrixFormat,
    alphas: tuple[float, ...] = ALPHAS,
) -> tuple[float, Tensor]:
    """The exponent, and its factors (K,), under which weights (N, K) rounded to nearest change
    the outputs on the calibration text least."""
    hessian = statistics.hessian.float()
    best: tuple[float, float, Tensor] | None = None
    for alpha in alphas:
        factors = channel_factors(statistics.magnitude, alpha)
        stored = round_to_nearest(weight * factors, form).dequantize() / factors
        loss = output_error(stored - weight, hessian)
        if best is None or loss < best[0]:
            best = loss, alpha, factors
    assert best is not None
    return best[1], best[2]


def scale_channels(block: Block, part: str, factors: Tensor) -> None:
    """Multiply the rows of ``part`` by ``factors`` (K,) and divide what makes its inputs."""
    if part in NORMS:
        move(*parts_of(block, part), factors)
        return
    width = len(factors)  # the values are the last third of what c_attn makes
    block.attn.c_attn.weight[:, -width:].div_(factors)
    block.attn.c_attn.bias[-width:].div_(factors)
    block.attn.c_proj.weight.mul_(factors[:, None])
