"""Checkpoints: a HF directory or hub id becomes a validated configuration and named tensors."""

from __future__ import annotations

from gpt2fast.checkpoint.checkpoint import Checkpoint, open_checkpoint
from gpt2fast.checkpoint.exported import Export, open_model
from gpt2fast.checkpoint.tensor import StoredTensor

__all__ = ["Checkpoint", "Export", "StoredTensor", "open_checkpoint", "open_model"]
