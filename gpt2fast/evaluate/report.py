"""``evaluate``: everything that ``gpt2fast eval`` measures, as one JSON-able report."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gpt2fast.config import ModelConfig
from gpt2fast.engine.llm import LLM
from gpt2fast.errors import OptionError
from gpt2fast.evaluate.bootstrap import LEVEL, RESAMPLES, interval
from gpt2fast.evaluate.divergence import compare_logits
from gpt2fast.evaluate.scoring import token_nats
from gpt2fast.evaluate.summary import compare, perplexity
from gpt2fast.evaluate.text import Text, read_text
from gpt2fast.evaluate.windows import make_protocol

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_SHARED_OPTIONS = ("device", "num_threads")  # which do not change what a model computes
Model = str | os.PathLike[str] | LLM
# Called with what is being done, how many parts of it are done, and how many there are.
Progress = Callable[[str, int, int], None]


def evaluate(
    model: Model,
    *,
    text: str | Path | None = None,
    reference: Model | None = None,
    protocol: str = "stride",
    detokenizer: str = "none",
    context: int | None = None,
    stride: int | None = None,
    max_tokens: int | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
    progress: Progress | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Measure ``model``, beside ``reference`` if given, on what is asked for.

    Args:
        model, reference: ``LLM`` objects, or what ``LLM`` takes for a model. ``options`` are those
            of ``LLM`` and go to ``model``; the reference gets ``device`` and ``num_threads`` alone,
            so that it is the checkpoint as it is.
        text: a file for perplexity, under ``protocol`` (stride, transformers or lm-eval) with its
            ``detokenizer``, ``context``, ``stride`` and ``max_tokens`` (docs/evaluation.md).
        seed, resamples: of the bootstrap.

    Raises ``OptionError`` naming what cannot be honoured, and what ``LLM`` raises.
    """
    if text is None:
        raise OptionError("there is nothing to measure; give a text")
    boot = Bootstrap(seed, resamples)
    if resamples < 1:
        raise OptionError(f"resamples = {resamples} is not positive")
    with _opened(model, reference, options) as pair:
        report: dict[str, Any] = {"model": _describe(model, options)}
        if pair.reference is not None:
            report["reference"] = _describe(reference, {})
        form = make_protocol(
            protocol, pair.positions, context, stride, first_token(pair.model.config)
        )
        tokens = read_text(
            text, pair.tokenizer, form, detokenizer=detokenizer, max_tokens=max_tokens
        )
        report |= _measure_text(pair, tokens, boot, progress)
    report["bootstrap"] = {"level": LEVEL, "seed": seed, "resamples": resamples}
    return report


def first_token(config: ModelConfig) -> int | None:
    """What a document is put behind: the begin-of-text token, else that of its end."""
    ends = config.eos_token_ids
    return config.bos_token_id if config.bos_token_id is not None else (ends[0] if ends else None)


@dataclass(frozen=True)
class Bootstrap:
    """The randomness of the intervals."""

    seed: int
    resamples: int

    def interval(self, values: NDArray[Any], groups: NDArray[np.int64] | None) -> dict[str, Any]:
        """The mean of ``values`` with its interval, for JSON."""
        return interval(values, groups, seed=self.seed, resamples=self.resamples).as_dict()


@dataclass(frozen=True)
class Pair:
    """The model that is measured and the one it is compared with, which have one tokenizer."""

    model: LLM
    reference: LLM | None
    tokenizer: Tokenizer

    @property
    def positions(self) -> int:
        """Tokens that both can read."""
        models = (self.model, self.reference)
        return min(model.config.n_positions for model in models if model is not None)


@contextmanager
def _opened(model: Model, reference: Model | None, options: dict[str, Any]) -> Iterator[Pair]:
    with ExitStack() as stack:
        shared = {key: value for key, value in options.items() if key in _SHARED_OPTIONS}
        first = _load(model, options, stack)
        second = None if reference is None else _load(reference, shared, stack)
        if first.tokenizer is None:
            raise OptionError(f"{_name(model)} has no tokenizer; a text cannot be read without")
        if second is not None:
            _check_alike(first, second, _name(model), _name(reference))
        yield Pair(first, second, first.tokenizer)


def _load(model: Model, options: dict[str, Any], stack: ExitStack) -> LLM:
    if not isinstance(model, LLM):
        return stack.enter_context(LLM(model, prefix_caching=False, **options))
    return model


def _check_alike(model: LLM, reference: LLM, name: str, other: str) -> None:
    assert model.tokenizer is not None
    if reference.tokenizer is None:
        raise OptionError(f"{other} has no tokenizer; a text cannot be read without")
    same = model.tokenizer.get_vocab() == reference.tokenizer.get_vocab()
    if not same or model.config.vocab_size != reference.config.vocab_size:
        raise OptionError(
            f"{name} and {other} have different tokenizers, so that their tokens cannot be "
            "compared; measure each without a reference and compare bits_per_byte"
        )


def _name(model: Model | None) -> str:
    return "the given LLM" if isinstance(model, LLM) else str(model)


def _describe(model: Model | None, options: dict[str, Any]) -> dict[str, Any]:
    given = {key: value for key, value in options.items() if value not in (None, "auto")}
    return {"name": _name(model), **given}


def _measure_text(
    pair: Pair, text: Text, boot: Bootstrap, progress: Progress | None
) -> dict[str, Any]:
    step = _Counter(progress, f"perplexity of {text.file}", len(text.windows))
    if pair.reference is None:
        nats = token_nats(pair.model.logits, text.windows, step)
        return {"perplexity": perplexity(nats, text, seed=boot.seed, resamples=boot.resamples)}
    found = compare_logits(pair.reference.logits, pair.model.logits, text.windows, step)
    both = compare(found.reference_nats, found.nats, text, seed=boot.seed, resamples=boot.resamples)
    groups = text.groups
    return {
        "perplexity": perplexity(found.nats, text, seed=boot.seed, resamples=boot.resamples),
        "reference_perplexity": perplexity(
            found.reference_nats, text, seed=boot.seed, resamples=boot.resamples
        ),
        "comparison": both.as_dict(),
        "kl": boot.interval(found.kl, groups),
        "top1_agreement": boot.interval(found.agrees, groups),
    }


class _Counter:
    """The step callback of the functions below, told to a ``Progress``."""

    def __init__(self, progress: Progress | None, what: str, total: int) -> None:
        self._progress, self._what, self._total = progress, what, total
        self._done = 0

    def __call__(self) -> None:
        self._done += 1
        if self._progress is not None:
            self._progress(self._what, self._done, self._total)
