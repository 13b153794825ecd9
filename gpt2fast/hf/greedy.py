"""Greedy ``generate`` in a loop of our own, where nothing is asked for that needs transformers'."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gpt2fast.hf.cache import NativeCache
from gpt2fast.hf.native import Native
from gpt2fast.hf.plan import Plan, make_plan

# What of a generation config the loop understands; anything else that departs from its default
# leaves the call to transformers.
_UNDERSTOOD = {
    *(
        "max_new_tokens",
        "max_length",
        "min_new_tokens",
        "do_sample",
        "num_beams",
        "use_cache",
        "return_dict",
    ),
    *("bos_token_id", "eos_token_id", "pad_token_id", "num_return_sequences"),
    *("transformers_version", "_from_model_config", "output_attentions", "output_hidden_states"),
    *("temperature", "top_k", "top_p"),  # of sampling alone
}
_ARGUMENTS = {"inputs", "input_ids", "attention_mask", "generation_config"}


@dataclass(frozen=True)
class Request:
    """Prompts (B, S) with their mask, and when to stop."""

    ids: NDArray[np.int64]
    plan: Plan
    least: int  # new tokens
    most: int
    ends: tuple[int, ...]
    pad: int


def make_request(model: Any, native: Native, given: dict[str, Any]) -> Request | None:
    """What ``generate`` with the arguments ``given`` asks for; None where transformers does it."""
    settings = copy.deepcopy(given.get("generation_config") or model.generation_config)
    options = {k: v for k, v in given.items() if k not in _ARGUMENTS and v is not None}
    if settings.update(**options):
        return None
    if (
        set(settings.to_diff_dict()) - _UNDERSTOOD
        or settings.do_sample
        or settings.use_cache is False
    ):
        return None
    if (settings.num_beams or 1) > 1 or (settings.num_return_sequences or 1) > 1:
        return None
    prompts = given.get("input_ids", given.get("inputs"))
    if not torch.is_tensor(prompts) or prompts.ndim != 2 or prompts.shape[1] == 0:
        return None
    ids = np.asarray(prompts.cpu(), np.int64)
    plan = _plan(ids, given.get("attention_mask"), settings)
    most = settings.max_new_tokens
    if most is None and "max_length" in options:
        most = settings.max_length - ids.shape[1]
    if plan is None or most is None or most < 1:
        return None
    if ids.min() < 0 or ids.max() >= native.config.vocab_size:
        return None
    if int(plan.counts.min()) < 1 or ids.shape[1] + most > native.config.n_positions:
        return None
    ends = settings.eos_token_id
    ends = () if ends is None else tuple(ends) if isinstance(ends, list | tuple) else (int(ends),)
    pad = settings.pad_token_id
    if pad is None:
        pad = ends[0] if ends else 0
    return Request(ids, plan, settings.min_new_tokens or 0, most, ends, pad)


def _plan(ids: NDArray[np.int64], mask: Any, settings: Any) -> Plan | None:
    if mask is None:
        if settings.pad_token_id is not None and bool((ids == settings.pad_token_id).any()):
            return None  # transformers guesses what is padding
        seen = np.ones_like(ids)
    elif torch.is_tensor(mask) and tuple(mask.shape) == ids.shape:
        seen = np.asarray(mask.cpu(), np.int64)
    else:
        return None
    nothing = np.zeros(len(ids), np.int64)
    positions = np.maximum(np.cumsum(seen, axis=1) - 1, 0)
    plan = make_plan((len(ids), ids.shape[1]), seen, positions, nothing, nothing, 0)
    ends_whole = bool(seen[:, -1].all())  # else the text would go on behind padding
    return plan if isinstance(plan, Plan) and ends_whole else None


def generate(native: Native, request: Request) -> Tensor:
    """(B, S + new): the prompts, each with its most likely tokens behind; what ended is padded."""
    columns = [request.ids, *(column[:, None] for column in _columns(native, request))]
    return torch.from_numpy(np.concatenate(columns, axis=1))


def _columns(native: Native, request: Request) -> Iterator[NDArray[np.int64]]:
    cache = NativeCache(native)
    batch = len(request.ids)
    cache.open(batch)
    ids, plan = request.ids, request.plan
    going = np.ones(batch, np.int64)
    for count in range(request.most):
        logits = native.run(cache.handles, ids, plan, 1, logits=True)[:, 0]
        if count < request.least:
            logits[:, request.ends] = -np.inf
        chosen = np.where(going == 1, logits.argmax(axis=1), request.pad)
        yield chosen
        going[np.isin(chosen, request.ends)] = 0
        if not going.any():
            return
        ids, plan = chosen[:, None], Plan(np.zeros(batch, np.int64), going.copy())
