"""Calls whose results are taken at padding: there the runner computes nothing, and gives zeros,
where transformers has the network's guess. Each function says why such a call has to be
transformers', or returns None.

Ids, labels and masks are (..., T), T with those columns of a mask that are cached before.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def _hidden(given: dict[str, Any]) -> Tensor | None:
    """(..., T): which of the call's tokens are padding; None where none is."""
    mask, ids = given.get("attention_mask"), given.get("input_ids")
    if mask is None or ids is None or mask.ndim != ids.ndim or bool(mask.all()):
        return None
    hidden: Tensor = mask[..., -ids.shape[-1] :] == 0
    fits = all(found in (1, size) for found, size in zip(hidden.shape, ids.shape, strict=True))
    return hidden.expand(ids.shape) if fits else None


def has_padding(given: dict[str, Any]) -> bool:
    """Whether one of the call's tokens is."""
    hidden = _hidden(given)
    return hidden is not None and bool(hidden.any())


def reason_of_loss(given: dict[str, Any], *, shifted: bool) -> str | None:
    """For a loss over tokens; a column that is ``shifted`` has the label of the next."""
    labels, hidden = given.get("labels"), _hidden(given)
    if labels is None or hidden is None or labels.shape != hidden.shape:
        return None
    counted = labels != -100
    if shifted:
        counted, hidden = counted[..., 1:], hidden[..., :-1]
    if bool((counted & hidden).any()):
        return "labels ask for a loss at padding (-100 leaves it out)"
    return None


def reason_of_answers(given: dict[str, Any]) -> str | None:
    """For answers that may lie at any token."""
    return None if _hidden(given) is None else "answers are looked for at padding, too"


def reason_of_class(given: dict[str, Any], pad_token_id: int | None) -> str | None:
    """For classes of whole texts, which are told at the last token that is not ``pad_token_id``."""
    hidden = _hidden(given)
    if hidden is None:
        return None
    last = torch.full(hidden.shape[:-1], hidden.shape[-1] - 1, device=hidden.device)
    if pad_token_id is not None:
        at = torch.arange(hidden.shape[-1], device=hidden.device)
        last = (at * (given["input_ids"] != pad_token_id)).argmax(-1)
    if bool(hidden.gather(-1, last[..., None]).any()):
        return f"the token that tells a text's class is padding (pad_token_id is {pad_token_id})"
    return None


def reason_of_summary(given: dict[str, Any], kind: str) -> str | None:
    """For a text's summary of a ``kind`` (``summary_type``): at the token of ``mc_token_ids``, by
    default the last, or over all."""
    hidden, place = _hidden(given), given.get("mc_token_ids")
    if hidden is None:
        return None
    if kind == "cls_index" and place is not None and place.shape == hidden.shape[:-1]:
        taken = hidden.gather(-1, place.to(hidden.device)[..., None].clamp(min=0))
    elif kind in ("cls_index", "last"):
        taken = hidden[..., -1]
    else:
        taken = hidden[..., 0] if kind == "first" else hidden
    return "choices are told at padding (give mc_token_ids)" if bool(taken.any()) else None
