"""``torch.multinomial`` for a token of each row, the same tokens in a fraction of the time.

It divides probabilities by exponential noise and takes the largest. The noise is a logarithm of
uniform numbers, and most of its time goes into logarithms for tokens of no probability. Uniform
numbers alone leave the generator in the same state.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor


def draw(probabilities: Tensor) -> Tensor:
    """(B,): a token of each row of ``probabilities`` (B, V), by torch's default generator."""
    sums = probabilities.sum(dim=-1)
    are_numbers = bool((sums > 0).all()) and bool(sums.isfinite().all())  # else an error of torch's
    on_cpu = probabilities.device.type == "cpu"
    if not (on_cpu and are_numbers and is_known(probabilities.numel())):
        return torch.multinomial(probabilities, num_samples=1)[:, 0]
    uniform = torch.empty(probabilities.shape, dtype=torch.float64).uniform_()
    tokens = []
    for row, noise in zip(probabilities, uniform, strict=True):
        possible = row.nonzero()[:, 0]
        tokens.append(drawn(possible, row[possible], noise))
    return torch.stack(tokens)


def drawn(tokens: Tensor, probabilities: Tensor, uniform: Tensor) -> Tensor:
    """One of ``tokens`` (N,), ascending, by their ``probabilities`` (N,) and ``uniform`` (V,)."""
    noise = exponential(uniform[tokens], probabilities.dtype)
    return tokens[(probabilities / noise).argmax()]


def exponential(uniform: Tensor, dtype: torch.dtype) -> Tensor:
    """Noise of ``dtype`` from ``uniform`` numbers."""
    return -torch.log1p(-uniform).to(dtype)


@cache
def is_known(count: int) -> bool:
    """Whether the torch that is installed makes its noise so, for ``count`` numbers."""
    theirs, ours = (torch.Generator().manual_seed(count) for _ in range(2))
    want = torch.empty(count).exponential_(generator=theirs)
    uniform = torch.empty(count, dtype=torch.float64).uniform_(generator=ours)
    same = torch.equal(want, exponential(uniform, want.dtype))
    return same and torch.equal(theirs.get_state(), ours.get_state())
