"""Hidden states of a student beside those of its teacher.

Shapes: B batch, T tokens, C width; those of the student end in ``_s``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from gpt2fast.compress.distill.importance import important_channels
from gpt2fast.compress.distill.losses import hidden_loss
from gpt2fast.model.gpt2 import GPT2


@contextmanager
def recorded(network: GPT2, layers: Sequence[int]) -> Iterator[list[Tensor]]:
    """Within the block, a forward pass puts the outputs (B, T, C) of ``layers`` (ascending) into
    the list, in their order."""
    states: list[Tensor] = []

    def record(_module: nn.Module, _inputs: object, output: Tensor) -> None:
        states.append(output)

    with ExitStack() as hooks:
        for layer in sorted(set(layers)):
            hooks.callback(network.h[layer].register_forward_hook(record).remove)
        yield states


class Projections(nn.Module):
    """Learned maps from the student's width to the teacher's, one for each pair of layers. They
    begin by putting each channel where a student that was cut from the teacher has it from."""

    def __init__(self, teacher: GPT2, width: int, count: int) -> None:
        super().__init__()
        first = torch.zeros(teacher.config.n_embd, width)
        first[important_channels(teacher, width), torch.arange(width)] = 1.0
        self.weights = nn.ParameterList(first.clone() for _ in range(count))  # (C, C_s) each

    def forward(self, states: list[Tensor]) -> list[Tensor]:
        """(B, T, C_s) each -> (B, T, C) each."""
        return [state.float() @ w.T for state, w in zip(states, self.weights, strict=True)]


def mean_hidden_loss(student: list[Tensor], teacher: list[Tensor]) -> Tensor:
    """The mean of ``hidden_loss`` over pairs of layers."""
    losses = [hidden_loss(s, t) for s, t in zip(student, teacher, strict=True)]
    return torch.stack(losses).mean()
