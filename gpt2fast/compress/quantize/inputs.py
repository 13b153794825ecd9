"""What calibration text says of the inputs of a matrix, and the errors of outputs that follow.

Shapes: K inputs, N outputs; rows are tokens of the calibration text.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gpt2fast.compress.calibration.capture import HiddenStates
from gpt2fast.compress.calibration.moments import SecondMoment


class InputStatistics:
    """Second moments and magnitudes of inputs (rows, K), summed a batch at a time."""

    def __init__(self, inputs: int, device: torch.device | str = "cpu") -> None:
        self._moment = SecondMoment(inputs, device)
        self._magnitudes = torch.zeros(inputs, dtype=torch.float64, device=device)
        self.largest = torch.zeros(inputs, device=device)  # (K,) greatest magnitudes

    def add(self, x: Tensor) -> None:
        """Count the inputs x (rows, K)."""
        self._moment.add(x)
        self._magnitudes += x.abs().sum(0)
        self.largest = torch.maximum(self.largest, x.abs().amax(0))

    @property
    def hessian(self) -> Tensor:
        """``2 X^T X / rows`` (K, K) in float64: of an output's mean squared error."""
        return 2.0 * self._moment.matrix

    @property
    def magnitude(self) -> Tensor:
        """Mean magnitudes (K,) in float32."""
        return (self._magnitudes / max(self._moment.count, 1)).float()


def collect(states: HiddenStates, parts: tuple[str, ...]) -> dict[str, InputStatistics]:
    """Statistics of the inputs of each of the ``parts`` of the block at hand, as it is now."""
    found: dict[str, InputStatistics] = {}

    def consume(part: str, x: Tensor) -> None:
        if part not in found:
            found[part] = InputStatistics(x.shape[-1], x.device)
        found[part].add(x)

    states.inputs(parts, consume)
    return found


def sample(states: HiddenStates, part: str, rows: int) -> Tensor:
    """About ``rows`` inputs (R, K) of a ``part``, spread over the calibration text."""
    every = max(1, states.states.shape[0] * states.states.shape[1] // rows)
    found: list[Tensor] = []
    states.inputs((part,), lambda _part, x: found.append(x[::every].clone()))
    return torch.cat(found)


def damped(hessian: Tensor, damping: float) -> Tensor:
    """``hessian`` (K, K) with a little more on its diagonal, ``damping`` in units of its mean: an
    input that never fired in this text may in another, and keeps some weight."""
    added = damping * float(hessian.diagonal().mean())
    return hessian + added * torch.eye(len(hessian), dtype=hessian.dtype, device=hessian.device)


def output_error(error: Tensor, hessian: Tensor) -> float:
    """Sum over outputs of ``e H e^T`` for errors of weights (N, K): mean squared error of the
    outputs, times 2."""
    return float(((error @ hessian.to(error.dtype)) * error).sum(dtype=torch.float64))


def relative_error(original: Tensor, stored: Tensor, hessian: Tensor) -> float:
    """Squared error of the outputs relative to their squares, for weights (N, K)."""
    size = output_error(original, hessian)
    return output_error(stored - original, hessian) / size if size > 0 else 0.0
