"""Wanda (Sun et al. 2024): a weight matters as much as what it usually multiplies.

Shapes: N outputs, K inputs; weights (N, K), an output a row.
"""

from __future__ import annotations

from torch import Tensor

from gpt2fast.compress.prune.masks import Pattern, mask_of_rows


def wanda(weight: Tensor, square: Tensor, pattern: Pattern) -> Tensor:
    """``weight`` (N, K) with the zeros of ``pattern`` where ``|w_nk| |x_k|`` is least, compared
    within each output; ``square`` (K,) is the mean of ``x_k^2``. What remains is unchanged."""
    return weight.masked_fill(mask_of_rows(weight.abs() * square.sqrt(), pattern), 0.0)
