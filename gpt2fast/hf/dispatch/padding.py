"""Heads whose result depends on hidden states at padding, which the backend leaves zero and
transformers computes. Each ``*_fallback_reason`` returns why such a call must run in torch, or
None.

Ids, labels and masks are (..., S); a mask may have the cached columns in front of those.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def _padding_mask(arguments: dict[str, Any]) -> Tensor | None:
    """(..., S): True at padding; None if there is none."""
    mask, ids = arguments.get("attention_mask"), arguments.get("input_ids")
    if mask is None or ids is None or mask.ndim != ids.ndim or bool(mask.all()):
        return None
    padding: Tensor = mask[..., -ids.shape[-1] :] == 0
    fits = all(actual in (1, size) for actual, size in zip(padding.shape, ids.shape, strict=True))
    return padding.expand(ids.shape) if fits else None


def has_padding(arguments: dict[str, Any]) -> bool:
    """Whether one of the call's new tokens is padding."""
    padding = _padding_mask(arguments)
    return padding is not None and bool(padding.any())


def loss_fallback_reason(arguments: dict[str, Any], *, shifted: bool) -> str | None:
    """For a loss over tokens. If ``shifted``, a column predicts the label of the next one."""
    labels, padding = arguments.get("labels"), _padding_mask(arguments)
    if labels is None or padding is None or labels.shape != padding.shape:
        return None
    counted = labels != -100
    if shifted:
        counted, padding = counted[..., 1:], padding[..., :-1]
    if bool((counted & padding).any()):
        return "labels ask for a loss at padding (-100 leaves it out)"
    return None


def answer_fallback_reason(arguments: dict[str, Any]) -> str | None:
    """For question answering: an answer may start or end at any column."""
    return None if _padding_mask(arguments) is None else "answers are looked for at padding, too"


def class_fallback_reason(arguments: dict[str, Any], pad_token_id: int | None) -> str | None:
    """For sequence classification, which takes the last token that is not ``pad_token_id``."""
    padding = _padding_mask(arguments)
    if padding is None:
        return None
    last = torch.full(padding.shape[:-1], padding.shape[-1] - 1, device=padding.device)
    if pad_token_id is not None:
        at = torch.arange(padding.shape[-1], device=padding.device)
        last = (at * (arguments["input_ids"] != pad_token_id)).argmax(-1)
    if bool(padding.gather(-1, last[..., None]).any()):
        return f"the token that is classified is padding (pad_token_id is {pad_token_id})"
    return None


def summary_fallback_reason(arguments: dict[str, Any], kind: str) -> str | None:
    """For multiple choice. ``kind`` is the config's ``summary_type``: the token at ``mc_token_ids``
    (by default the last), the first or last one, or the mean over all."""
    padding, position = _padding_mask(arguments), arguments.get("mc_token_ids")
    if padding is None:
        return None
    if kind == "cls_index" and position is not None and position.shape == padding.shape[:-1]:
        taken = padding.gather(-1, position.to(padding.device)[..., None].clamp(min=0))
    elif kind in ("cls_index", "last"):
        taken = padding[..., -1]
    else:
        taken = padding[..., 0] if kind == "first" else padding
    if bool(taken.any()):
        return "the token that choices are scored at is padding (give mc_token_ids)"
    return None
