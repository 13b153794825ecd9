"""Moments of a matrix's inputs on calibration text, for GPTQ, SparseGPT and least squares.

Shapes: R rows seen, K inputs.
"""

from __future__ import annotations

import torch
from torch import Tensor


class SecondMoment:
    """Mean and mean outer product of rows that arrive in batches; nothing else of them is kept.

    Products are taken in the rows' own dtype and summed in float64, so that the rounding does not
    grow with the number of batches, and float32 rows cost no float64 product. Sums need no order:
    batches may come in any.
    """

    def __init__(self, num_inputs: int, device: torch.device | str = "cpu") -> None:
        self.count = 0  # R
        self._outer = torch.zeros(num_inputs, num_inputs, dtype=torch.float64, device=device)
        self._sum = torch.zeros(num_inputs, dtype=torch.float64, device=device)

    def add(self, rows: Tensor) -> None:
        """Count ``rows`` (R, K) in."""
        self.count += len(rows)
        self._outer += rows.T @ rows
        self._sum += rows.sum(0, dtype=torch.float64)

    @property
    def matrix(self) -> Tensor:
        """Mean of ``x x^T`` over the rows: (K, K) float64; zeros before the first row."""
        return self._outer / max(self.count, 1)

    @property
    def mean(self) -> Tensor:
        """Mean row: (K,) float64."""
        return self._sum / max(self.count, 1)

    @property
    def square(self) -> Tensor:
        """Mean of ``x^2`` of each input: (K,) float64, the diagonal of ``matrix``."""
        return self._outer.diagonal() / max(self.count, 1)

    @property
    def covariance(self) -> Tensor:
        """``matrix`` about the mean: (K, K) float64."""
        return self.matrix - torch.outer(self.mean, self.mean)
