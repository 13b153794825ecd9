"""Wanda (Sun et al. 2024): a weight matters as much as what it usually multiplies.

Shapes: N outputs, K inputs; weights (N, K), an output a row.
"""

from __future__ import annotations

from torch import Tensor

from gpt2fast.compress.prune.masks import Pattern, mask_of_rows


def wanda(weight: Tensor, square: Tensor, pattern: Pattern, norm_power: float = 1.0) -> Tensor:
    """``weight`` (N, K) with the zeros of ``pattern`` where ``|w_nk| |x_k|^p`` is least, compared
    within each output; ``square`` (K,) is the mean of ``x_k^2``. What remains is unchanged.

    ``norm_power`` p: 1 is Wanda, 0 magnitude, and 0.5 what Zhang et al. (2024, RIA) found best.
    """
    scores = weight.abs() * square ** (norm_power / 2)
    return weight.masked_fill(mask_of_rows(scores, pattern), 0.0)
