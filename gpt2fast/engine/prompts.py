"""The shapes in which prompts and their options may be given to ``LLM``."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from gpt2fast.checkpoint.tokenizer import library_errors
from gpt2fast.config import ModelConfig
from gpt2fast.engine.input_processor import NOT_LISTS, as_plain_list
from gpt2fast.errors import OptionError, RequestError, counted, show
from gpt2fast.sampling_params import BeamSearchParams

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# Token ids may be an integer array or tensor; a mapping is one of vLLM's prompts, see _TEXT, _IDS.
Prompt = str | Sequence[int] | Mapping[str, Any]
Prompts = Prompt | Sequence[Prompt]

_TEXT, _IDS = "prompt", "prompt_token_ids"  # keys of vLLM's TextPrompt and TokensPrompt
_KINDS = (
    "a string, a list or one-dimensional array of token ids, or a dictionary with 'prompt' or "
    "'prompt_token_ids'"
)


def as_list(prompts: Any) -> list[Prompt]:
    """One prompt of any shape, or a list of them, as a list of prompts."""
    prompts = as_plain_list(prompts)
    if isinstance(prompts, (str, Mapping)):
        return [prompts]
    if isinstance(prompts, NOT_LISTS) or not hasattr(prompts, "__iter__"):
        raise RequestError(
            f"prompts are {type(prompts).__name__}; give {_KINDS}, or a list of such"
        )
    listed = [as_plain_list(each) for each in prompts]
    if not listed:
        raise RequestError("prompts are empty; give at least one prompt")
    whole = [hasattr(each, "__iter__") for each in listed]
    if not any(whole):
        return [listed]
    if not all(whole):
        position = whole.index(False)
        raise RequestError(f"prompt {position} is {show(listed[position])}; give {_KINDS}")
    return listed


def as_params(prompts: list[Prompt], params: Any, kind: type[Any]) -> list[Any]:
    """One object of class ``kind`` for each prompt; one serves all, None is the default."""
    name = "params" if kind is BeamSearchParams else "sampling_params"
    if params is None:
        params = kind()
    each = [params] * len(prompts) if isinstance(params, kind) else params
    if not isinstance(each, (list, tuple)) or not all(isinstance(one, kind) for one in each):
        raise OptionError(f"{name} = {show(params)} is not a {kind.__name__} or a list of them")
    if len(each) != len(prompts):
        raise OptionError(
            f"{name} has {len(each)} entries for {counted(len(prompts), 'prompt')}; give one for "
            "all, or one for each"
        )
    return list(each)


def read_prompt(
    prompt: Any, tokenizer: Tokenizer | None, config: ModelConfig
) -> tuple[str | None, Any]:
    """The text of one prompt (None where it was given as token ids), and its token ids, which are
    not yet checked. An empty text is the token that texts of this model begin with.

    Raises ``RequestError`` for a dictionary that is no prompt, and for text that cannot be
    tokenized.
    """
    text, ids = _from_mapping(prompt) if isinstance(prompt, Mapping) else (prompt, None)
    if ids is not None:
        return text, ids
    if not isinstance(text, str):
        return None, text
    return text, encode(tokenizer, text) or [_first_token(config)]


def _from_mapping(prompt: Mapping[str, Any]) -> tuple[str | None, Any]:
    """Text and token ids of a dictionary; as in vLLM, the ids count where both are given."""
    given = {key: value for key, value in prompt.items() if value is not None}
    if "input_ids" in given:
        raise RequestError("the prompt is the output of a tokenizer; give its 'input_ids' alone")
    if unknown := sorted(map(str, given.keys() - {_TEXT, _IDS})):
        raise RequestError(
            f"the prompt has {show(unknown[0])}, which is not supported; a dictionary may have "
            f"{_TEXT!r} or {_IDS!r}"
        )
    text, ids = given.get(_TEXT), given.get(_IDS)
    if text is None and ids is None:
        raise RequestError(f"the prompt is a dictionary without {_TEXT!r} and {_IDS!r}; give one")
    if text is not None and not isinstance(text, str):
        raise RequestError(f"{_TEXT!r} of a prompt is {show(text)}; give a string")
    return text, ids


def _first_token(config: ModelConfig) -> int:
    """The token that stands before a text in training: begin of text, or the end of another."""
    for token in (config.bos_token_id, *config.eos_token_ids):
        if token is not None and token < config.vocab_size:
            return token
    raise RequestError(
        "the prompt is empty, and the model has no begin or end of text to begin with "
        "(bos_token_id and eos_token_id are null); give some text, or prompt_token_ids"
    )


def encode(tokenizer: Tokenizer | None, prompt: str) -> list[int]:
    """The token ids of a text prompt. Raises ``RequestError`` if it cannot be tokenized, and
    ``CheckpointError`` where that is the tokenizer's fault."""
    if tokenizer is None:
        raise RequestError(
            "this checkpoint has no tokenizer; give token ids (prompt_token_ids), not text"
        )
    if found := re.search("[\ud800-\udfff]", prompt):
        raise RequestError(
            "the prompt is not valid Unicode text: it holds the surrogate "
            f"U+{ord(found.group()):04X}, which is no character; decode its bytes as UTF-8"
        )
    with library_errors("the tokenizer, whose files may be damaged, fails on the prompt"):
        ids: list[int] = tokenizer.encode(prompt).ids
    if prompt and not ids:
        raise RequestError(
            f"the tokenizer makes no token of the prompt's {counted(len(prompt), 'character')}; "
            "its vocabulary is empty or of another language"
        )
    return ids
