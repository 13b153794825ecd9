"""The shapes in which prompts and their options may be given to ``LLM``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from gpt2fast.engine.intake import NOT_LISTS
from gpt2fast.errors import OptionError, RequestError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Prompt = str | Sequence[int]
Prompts = Prompt | Sequence[Prompt]


def as_list(prompts: Any) -> list[Prompt]:
    """A string, a list of token ids, or a list of either, as a list of prompts."""
    if isinstance(prompts, str):
        return [prompts]
    if isinstance(prompts, NOT_LISTS) or not hasattr(prompts, "__iter__"):
        raise RequestError(
            f"prompts are {type(prompts).__name__}; give a string, a list of token ids, or a list "
            "of either"
        )
    try:
        listed = list(prompts)
    except TypeError as error:  # an array of no dimension has __iter__ too
        raise RequestError(f"prompts cannot be listed: {error}; give a list") from error
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


def encode(tokenizer: Tokenizer | None, prompt: str) -> list[int]:
    """The token ids of a text prompt. Raises ``RequestError`` if it cannot be tokenized."""
    if tokenizer is None:
        raise RequestError("this checkpoint has no tokenizer; give the prompt as token ids")
    try:
        ids: list[int] = tokenizer.encode(prompt).ids
    except (TypeError, UnicodeEncodeError) as error:
        found = next((c for c in prompt if "\ud800" <= c <= "\udfff"), None)
        if found is None:
            raise RequestError(f"the prompt cannot be tokenized: {error}") from error
        raise RequestError(
            f"the prompt is not valid Unicode text: it holds the surrogate U+{ord(found):04X}, "
            "which is no character; decode its bytes as UTF-8"
        ) from None
    if prompt and not ids:
        raise RequestError(
            f"the tokenizer makes no token of the prompt's {len(prompt)} characters; its "
            "vocabulary is empty or of another language"
        )
    return ids
