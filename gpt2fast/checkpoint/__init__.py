"""Checkpoints: a HF directory or hub id becomes a validated configuration and named tensors."""

from __future__ import annotations

from gpt2fast.checkpoint.checkpoint import Checkpoint, open_checkpoint
from gpt2fast.checkpoint.tensor import StoredTensor

__all__ = ["Checkpoint", "StoredTensor", "open_checkpoint"]
