"""A checkpoint's tensors in torch, checked and in the dtype and on the device asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gpt2fast.errors import CheckpointError
from gpt2fast.model.gpt2 import GPT2

if TYPE_CHECKING:
    from gpt2fast.checkpoint import Checkpoint


def read_tensor(
    checkpoint: Checkpoint, name: str, device: torch.device, dtype: torch.dtype
) -> Tensor:
    """A copy of the tensor of canonical ``name``.

    Raises CheckpointError naming the file for NaN and infinite values, whether stored so or beyond
    the range of ``dtype``.
    """
    stored = checkpoint.tensor(name)
    if stored.dtype == "BF16" and ".mlp.act." in name:
        dtype = torch.bfloat16  # transformers leaves them so, and rounds what it derives from them
    tensor = torch.tensor(stored.float32()).to(device, dtype)
    stored.release()
    if not bool(torch.isfinite(tensor).all()):
        raise CheckpointError(
            f"{stored.source}: {name} holds values that are NaN, infinite or beyond the range of "
            f"{str(dtype).removeprefix('torch.')}; use a wider dtype or an undamaged checkpoint"
        )
    return tensor


def load_weights(model: GPT2, checkpoint: Checkpoint) -> None:
    """Copy a checkpoint into ``model``, which was made from the checkpoint's own configuration."""
    state = model.state_dict()
    if set(state) != set(checkpoint.names):
        different = ", ".join(sorted(set(state) ^ set(checkpoint.names)))
        raise CheckpointError(f"{checkpoint.path}: does not fit the network: {different}")
    for name, parameter in state.items():
        parameter.copy_(read_tensor(checkpoint, name, parameter.device, parameter.dtype))
