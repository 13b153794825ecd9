"""Held-out loss of the model in training."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import nn

from gpt2fast.train.data import evaluation_batches

if TYPE_CHECKING:
    from accelerate import Accelerator


@dataclass(frozen=True)
class HeldOut:
    """Mean loss over ``tokens`` held-out tokens. ``bytes_per_token`` is that of the whole text."""

    nats_per_token: float
    tokens: int
    bytes_per_token: float

    @property
    def perplexity(self) -> float:
        """exp of the mean loss."""
        return math.exp(self.nats_per_token)

    @property
    def bits_per_byte(self) -> float:
        """A measure that does not depend on the tokenizer."""
        return self.nats_per_token / math.log(2) / self.bytes_per_token

    def as_dict(self) -> dict[str, float | int]:
        """For metrics.jsonl and training.json."""
        return {
            "nats_per_token": self.nats_per_token,
            "perplexity": self.perplexity,
            "bits_per_byte": self.bits_per_byte,
            "tokens": self.tokens,
        }


@torch.no_grad()
def evaluate(
    accelerator: Accelerator,
    model: nn.Module,
    tokens: NDArray[np.int32],
    num_bytes: int,
    context: int,
    batch_size: int,
    max_tokens: int | None = None,
    shown: Callable[[Sequence[NDArray[np.int64]]], Iterator[NDArray[np.int64]]] = iter,
) -> HeldOut:
    """Loss of the first ``max_tokens`` of ``tokens`` (N,), in windows of ``context`` side by side:
    each token is predicted once, from at most ``context`` tokens before it. The processes share
    the batches of ``batch_size`` windows. ``shown`` goes through those of this process and may tell
    how far it is.
    """
    chosen = tokens if max_tokens is None else tokens[: max_tokens + 1]
    mine = evaluation_batches(chosen, context, batch_size)[
        accelerator.process_index :: accelerator.num_processes
    ]
    # Sums over millions of tokens need float64, which MPS does not have.
    wide = torch.float32 if accelerator.device.type == "mps" else torch.float64
    total = torch.zeros(2, dtype=wide, device=accelerator.device)
    was_training = model.training
    model.eval()
    for batch in shown(mine):
        rows = torch.from_numpy(batch).to(accelerator.device)
        logits, targets = model(rows[:, :-1]), rows[:, 1:].flatten()
        loss = F.cross_entropy(logits.flatten(0, 1).float(), targets, reduction="sum")
        total[0] += loss.detach()
        total[1] += len(targets)
    model.train(was_training)
    nats, count = accelerator.reduce(total, "sum").tolist()
    return HeldOut(nats / count, int(count), num_bytes / len(tokens))
