"""AdamW's parameter groups and the learning rate as a function of the step."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import nn

from gpt2fast.train.run_options import LoopOptions


def learning_rate(step: int, options: LoopOptions) -> float:
    """Rate of step ``step`` (from 0): linear warm-up, then a cosine (Loshchilov and Hutter 2017)
    from ``lr`` down to ``lr * min_lr_ratio`` at the last step.

    A function of the step alone, so the schedule has no state that a checkpoint could lose.
    """
    warmup = options.warmup_steps
    if step < warmup:
        return options.lr * (step + 1) / warmup
    progress = (step - warmup) / max(1, options.steps - 1 - warmup)
    cosine = 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))
    return options.lr * (options.min_lr_ratio + (1.0 - options.min_lr_ratio) * cosine)


def make_optimizer(
    modules: Iterable[nn.Module], options: LoopOptions, device: torch.device
) -> torch.optim.AdamW:
    """AdamW (Loshchilov and Hutter 2019); weight decay on matrices, none on gains and biases."""
    parameters = [parameter for module in modules for parameter in module.parameters()]
    groups = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": options.weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        groups,
        lr=options.lr,
        betas=(options.beta1, options.beta2),
        fused=device.type in ("cpu", "cuda"),
    )
