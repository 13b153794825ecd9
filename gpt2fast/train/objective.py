"""What a run minimises."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gpt2fast.train.data import Batch


@dataclass(frozen=True)
class Loss:
    """A scalar to minimise, and the terms of it that the log is to name."""

    total: Tensor
    parts: Mapping[str, Tensor] = field(default_factory=dict)


class Objective:
    """Cross-entropy with the next token, nats/token. A subclass may minimise something else."""

    learned: nn.Module | None = None  # trained and saved beside the model; not part of the result

    def to(self, device: torch.device) -> None:
        """Move what the loss needs beside the model; called once."""

    def __call__(self, model: nn.Module, batch: Batch) -> Loss:
        """The mean loss of ``model``, which maps ids (B, T) to logits (B, T, V), on ``batch``. A
        function of the two alone, so that a resumed run sees the same losses."""
        return Loss(next_token_loss(model, batch.rows))


def next_token_loss(model: nn.Module, rows: Tensor) -> Tensor:
    """Mean cross-entropy of ``rows`` (B, T + 1), nats/token."""
    logits = model(rows[:, :-1])
    return F.cross_entropy(logits.flatten(0, 1).float(), rows[:, 1:].flatten())
