"""SparseGPT (Frantar and Alistarh 2023): zeros chosen and made up for, column by column.

Shapes: N outputs, K inputs; weights (N, K), an output a row.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gpt2fast.compress.prune.masks import Pattern, smallest, smallest_of_each

BLOCK = 128  # columns whose mask is chosen together; a multiple of every m of n:m up to 128


def sparsegpt(
    weight: Tensor, moment: Tensor, pattern: Pattern, damping: float = 0.01, block: int = BLOCK
) -> Tensor:
    """``weight`` (N, K) with the zeros of ``pattern``; what remains is changed so that the outputs
    for inputs of second moment ``moment`` (K, K) change little.

    Columns are taken in order. The error of zeroing one is shared out among the columns after it,
    in the proportions that least squares gives (a row of the Cholesky factor of the inverse). The
    mask of a block of columns is chosen when the errors before it have arrived: all weights of the
    block compete, of all outputs, or those of a row's m for n:m. Weights of inputs that are always
    zero go first. ``damping`` is in units of the mean diagonal of the others. Computed in float64,
    as the inverse of a singular moment needs.
    """
    rows, columns = weight.shape
    pattern.require_fit(columns)
    left = weight.to(torch.float64, copy=True)
    alive = moment.diagonal() > 0
    factor = inverse_factor(moment.double(), damping)
    result = torch.empty_like(left)
    done = 0  # zeros so far
    for begin in range(0, columns, block):
        end = min(begin + block, columns)
        inner = factor[begin:end, begin:end]
        todo = round(pattern.sparsity * rows * end) - done
        done += todo
        part = left[:, begin:end]
        result[:, begin:end], errors = _block(part, inner, alive[begin:end], pattern, todo)
        left[:, end:] -= errors @ factor[begin:end, end:]
    return result.to(weight.dtype)


def _block(
    left: Tensor, factor: Tensor, alive: Tensor, pattern: Pattern, todo: int
) -> tuple[Tensor, Tensor]:
    """What the columns ``left`` (N, B) become, and the errors (N, B) that later columns take over,
    each divided by its diagonal of ``factor`` (B, B). ``alive`` (B,): what is ever not zero."""
    left, diagonal = left.clone(), factor.diagonal()
    worth = alive / diagonal
    errors = torch.empty_like(left)
    zero = torch.zeros_like(left, dtype=torch.bool)
    if pattern.group == 0:
        zero = smallest((left * worth) ** 2, todo)
    for column in range(left.shape[1]):
        if pattern.group and column % pattern.group == 0:
            group = slice(column, column + pattern.group)
            loss = (left[:, group] * worth[group]) ** 2
            zero[:, group] = smallest_of_each(loss, pattern.zeros)
        new = left[:, column].masked_fill(zero[:, column], 0.0)
        errors[:, column] = (left[:, column] - new) / diagonal[column]
        left[:, column:] -= torch.outer(errors[:, column], factor[column, column:])
        left[:, column] = new
    return left, errors


def inverse_factor(moment: Tensor, damping: float) -> Tensor:
    """Upper Cholesky factor (K, K) of the inverse of the damped ``moment``; an input that is always
    zero is given the mean of the others, so that it disturbs none of them."""
    diagonal = moment.diagonal()
    alive = diagonal > 0
    mean = diagonal[alive].mean() if bool(alive.any()) else diagonal.new_ones(())
    moment = moment + torch.diag(torch.where(alive, 0.0, mean))
    eye = torch.eye(len(moment), dtype=moment.dtype, device=moment.device)
    while True:
        factor, failed = torch.linalg.cholesky_ex(moment + damping * mean * eye)
        if not failed:
            inverse = torch.cholesky_inverse(factor)
            upper: Tensor
            upper, failed = torch.linalg.cholesky_ex(inverse, upper=True)
            if not failed:
                return upper
        damping = max(10 * damping, 1e-12)
