"""The shapes in which prompts and their options may be given to ``LLM``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gpt2fast.errors import OptionError, RequestError

Prompt = str | Sequence[int]
Prompts = Prompt | Sequence[Prompt]


def as_list(prompts: Any) -> list[Prompt]:
    """A string, a list of token ids, or a list of either, as a list of prompts."""
    if isinstance(prompts, str):
        return [prompts]
    if isinstance(prompts, (bytes, dict)) or not hasattr(prompts, "__iter__"):
        raise RequestError(
            f"prompts are {type(prompts).__name__}; give a string, a list of token ids, or a list "
            "of either"
        )
    listed = list(prompts)
    if not listed:
        raise RequestError("prompts are empty; give at least one prompt")
    whole = [isinstance(each, str) or hasattr(each, "__iter__") for each in listed]
    if not any(whole):
        return [listed]
    if not all(whole):
        position = whole.index(False)
        raise RequestError(f"prompt {position} is {listed[position]!r}; mixed with whole prompts")
    return listed


def as_params(prompts: list[Prompt], params: Any, kind: type[Any]) -> list[Any]:
    """One object of class ``kind`` for each prompt; a single one serves all."""
    each = [params] * len(prompts) if isinstance(params, kind) else params
    if not isinstance(each, (list, tuple)) or not all(isinstance(one, kind) for one in each):
        raise OptionError(f"params = {params!r} is not a {kind.__name__} or a list of them")
    if len(each) != len(prompts):
        raise OptionError(f"params has {len(each)} entries for {len(prompts)} prompts")
    return list(each)
