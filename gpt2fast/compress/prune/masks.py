"""Which weights are to be zero: a fraction of them, or n of every m inputs of an output.

Shapes: N outputs, K inputs.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
from torch import Tensor

from gpt2fast.errors import OptionError


@dataclass(frozen=True)
class Pattern:
    """``sparsity`` of the weights are zero; where ``group`` is not 0, so many of each group of
    adjacent inputs of an output."""

    sparsity: float
    group: int = 0  # m

    @property
    def zeros(self) -> int:
        """Zeros of each group."""
        return round(self.sparsity * self.group)

    @classmethod
    def parse(cls, text: str, sparsity: float) -> Pattern:
        """``"unstructured"``, or ``"n:m"``: n of m adjacent weights stay. Raises OptionError."""
        if text == "unstructured":
            if not 0 <= sparsity < 1:
                raise OptionError(f"sparsity = {sparsity} must be at least 0 and below 1")
            return cls(sparsity)
        found = re.fullmatch(r"(\d{1,3}):(\d{1,3})", text)
        if not found or not 0 < int(found[1]) < int(found[2]) <= 128 or 128 % int(found[2]):
            raise OptionError(
                f"pattern = {text!r} must be 'unstructured', or 'n:m' such as '2:4', where n of m "
                "weights stay and m is a power of two up to 128"
            )
        return cls(1 - int(found[1]) / int(found[2]), int(found[2]))

    def require_fit(self, num_inputs: int) -> None:
        """Raise OptionError where groups do not divide a row."""
        if self.group and num_inputs % self.group:
            raise OptionError(f"{num_inputs} inputs cannot be divided into groups of {self.group}")


def smallest(scores: Tensor, count: int) -> Tensor:
    """Mask of exactly ``count`` smallest ``scores``, of all there are."""
    flat = torch.zeros(scores.numel(), dtype=torch.bool, device=scores.device)
    flat[scores.flatten().argsort(stable=True)[:count]] = True
    return flat.view_as(scores)


def smallest_of_each(scores: Tensor, count: int) -> Tensor:
    """Mask of exactly ``count`` smallest ``scores`` along the last dimension."""
    order = scores.argsort(dim=-1, stable=True)[..., :count]
    return torch.zeros_like(scores, dtype=torch.bool).scatter_(-1, order, True)


def mask_of_rows(scores: Tensor, pattern: Pattern) -> Tensor:
    """Zeros (N, K) where the weights of one output (or of its groups) compete by ``scores``."""
    pattern.require_fit(scores.shape[1])
    if pattern.group:
        return smallest_of_each(scores.unflatten(1, (-1, pattern.group)), pattern.zeros).flatten(1)
    return smallest_of_each(scores, round(pattern.sparsity * scores.shape[1]))


def mask_of_matrix(scores: Tensor, pattern: Pattern) -> Tensor:
    """Zeros (N, K) where all weights of a matrix compete, or those of a group for n:m."""
    if pattern.group:
        return mask_of_rows(scores, pattern)
    return smallest(scores, round(pattern.sparsity * scores.numel()))
