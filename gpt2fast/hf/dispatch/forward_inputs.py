"""The arguments of ``forward`` as arrays. B sequences, S new columns, T columns with cached
ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gpt2fast.hf.dispatch.fallback import FallbackToTorch
from gpt2fast.hf.dispatch.padding import loss_fallback_reason

_INTEGERS = (torch.int64, torch.int32)


@dataclass(frozen=True)
class ForwardInputs:
    """What the backend needs of a call.

    Args:
        ids: (B, S).
        lead: the shape of ``input_ids`` without its last dimension; outputs are (*lead, ...).
        mask: the attention mask (B, T), or None.
        positions: position ids (B, S), or None.
        last: how many columns at the end need logits.
        columns: indices into those, if not all are wanted.
    """

    ids: NDArray[np.int64]
    lead: tuple[int, ...]
    mask: NDArray[np.int64] | None
    positions: NDArray[np.int64] | None
    last: int
    columns: NDArray[np.int64] | None


def parse_inputs(arguments: dict[str, Any]) -> ForwardInputs:
    """The inputs in the ``arguments`` of ``forward``, by the names of ``compat``.

    Raises FallbackToTorch for inputs that the backend cannot take or that torch must refuse."""
    input_ids = arguments.get("input_ids")
    if not torch.is_tensor(input_ids) or input_ids.numel() == 0:
        raise FallbackToTorch("there are no input_ids")
    if input_ids.dtype not in _INTEGERS or input_ids.ndim < 2:
        raise FallbackToTorch(
            f"input_ids of type {input_ids.dtype} and shape {tuple(input_ids.shape)}"
        )
    ids = np.asarray(input_ids.cpu(), np.int64)
    lead, new = ids.shape[:-1], ids.shape[-1]  # multiple choice has (batch, choices, S)
    ids = ids.reshape(-1, new)
    mask, positions = (_as_matrix(arguments.get(n)) for n in ("attention_mask", "position_ids"))
    if positions is not None and positions.shape not in (ids.shape, (1, new)):
        raise FallbackToTorch(f"position_ids are {positions.shape}, and input_ids {ids.shape}")
    if positions is not None:
        positions = np.broadcast_to(positions, ids.shape)
    last, columns = _logit_columns(arguments.get("logits_to_keep", 0), new)
    if last < new and mask is not None and not mask[:, -last:].all():
        raise FallbackToTorch("the last tokens, whose logits are wanted, are padding")
    if (reason := loss_fallback_reason(arguments, shifted=True)) is not None:
        raise FallbackToTorch(reason)
    return ForwardInputs(ids, lead, mask, positions, last, columns)


def _logit_columns(keep: Any, new: int) -> tuple[int, NDArray[np.int64] | None]:
    """``last`` and ``columns`` of ForwardInputs for ``logits_to_keep = keep``."""
    if type(keep) is int and keep >= 0:
        return min(keep, new) or new, None
    if torch.is_tensor(keep) and keep.ndim == 1 and keep.dtype in _INTEGERS:
        return new, np.asarray(keep.cpu(), np.int64)
    raise FallbackToTorch(f"logits_to_keep is a {type(keep).__name__}, and not a number of columns")


def _as_matrix(tensor: Tensor | None) -> NDArray[np.int64] | None:
    if tensor is None:
        return None
    if tensor.ndim > 3 or tensor.is_floating_point():
        raise FallbackToTorch(f"a mask of shape {tuple(tensor.shape)} and type {tensor.dtype}")
    array = np.asarray(tensor.cpu(), np.int64)
    return array.reshape(-1, array.shape[-1])
