"""The model that is measured, and the one that it is compared with."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gpt2fast.config import ModelConfig
from gpt2fast.engine.llm import LLM
from gpt2fast.errors import OptionError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Model = str | os.PathLike[str] | LLM
_SHARED_OPTIONS = ("device", "num_threads")  # which do not change what a model computes


@dataclass(frozen=True)
class Pair:
    """A model and its reference, if any; they have one tokenizer."""

    model: LLM
    reference: LLM | None
    tokenizer: Tokenizer

    @property
    def positions(self) -> int:
        """Tokens that both can read."""
        models = (self.model, self.reference)
        return min(model.config.n_positions for model in models if model is not None)


@contextmanager
def open_pair(model: Model, reference: Model | None, options: dict[str, Any]) -> Iterator[Pair]:
    """Load what is not an ``LLM`` yet, and close it at the end.

    ``options`` of ``LLM`` are the model's; the reference gets its device and threads. Raises
    ``OptionError`` where one has no tokenizer or the two differ.
    """
    with ExitStack() as stack:
        shared = {key: value for key, value in options.items() if key in _SHARED_OPTIONS}
        first = _load(model, options, stack)
        second = None if reference is None else _load(reference, shared, stack)
        if first.tokenizer is None:
            raise OptionError(f"{name_of(model)} has no tokenizer; a text cannot be read without")
        if second is not None:
            _check_alike(first, second, name_of(model), name_of(reference))
        yield Pair(first, second, first.tokenizer)


def first_token(config: ModelConfig) -> int | None:
    """What a document is put behind: the begin-of-text token, else that of its end."""
    ids = (config.bos_token_id, *config.eos_token_ids)
    return next((each for each in ids if each is not None and each < config.vocab_size), None)


def describe(model: Model | None, options: dict[str, Any]) -> dict[str, Any]:
    """A model for the report: its name, and the options that are not the default."""
    given = {key: value for key, value in options.items() if value not in (None, "auto")}
    return {"name": name_of(model), **given}


def name_of(model: Model | None) -> str:
    """What to call a model in a message."""
    return "the given LLM" if isinstance(model, LLM) else str(model)


def _load(model: Model, options: dict[str, Any], stack: ExitStack) -> LLM:
    if isinstance(model, LLM):
        return model
    return stack.enter_context(LLM(model, prefix_caching=False, **options))


def _check_alike(model: LLM, reference: LLM, name: str, other: str) -> None:
    assert model.tokenizer is not None
    if reference.tokenizer is None:
        raise OptionError(f"{other} has no tokenizer; a text cannot be read without")
    same = model.tokenizer.get_vocab() == reference.tokenizer.get_vocab()
    if not same or model.config.vocab_size != reference.config.vocab_size:
        raise OptionError(
            f"{name} and {other} have different tokenizers, so that their tokens cannot be "
            "compared; measure each without a reference and compare bits a byte"
        )
