"""``evaluate``: everything that ``gpt2fast eval`` measures, as one JSON-able report."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from gpt2fast.errors import OptionError
from gpt2fast.evaluate.bias import TEMPLATES, Sentence, bias_log_odds, read_sentences
from gpt2fast.evaluate.bias_summary import compare_bias, summarize_bias
from gpt2fast.evaluate.bootstrap import LEVEL, RESAMPLES, BootstrapOptions, interval
from gpt2fast.evaluate.divergence import compare_logits
from gpt2fast.evaluate.last_word import Passages, last_words, read_passages
from gpt2fast.evaluate.pair import Model, Pair, describe, first_token, open_pair
from gpt2fast.evaluate.scoring import Step, token_nats
from gpt2fast.evaluate.summary import (
    compare_last_words,
    compare_perplexity,
    perplexity,
    summarize_last_words,
)
from gpt2fast.evaluate.text import Text, read_text
from gpt2fast.evaluate.windows import make_protocol
from gpt2fast.text_files import Paths

# Called with what is being done, how many parts of it are done, and how many there are.
Progress = Callable[[str, int, int], None]


def evaluate(
    model: Model,
    *,
    text: Paths | None = None,
    lambada: str | Path | None = None,
    bias: bool | str | Path = False,
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
        model: an ``LLM``, or what ``LLM`` takes for a model.
        reference: the same, to compare with. It gets ``device`` and ``num_threads`` of ``options``
            alone, so that it is the checkpoint as it is.
        text: files, directories or globs for perplexity, under ``protocol`` (stride, transformers
            or lm-eval) with its ``detokenizer``, ``context``, ``stride`` and ``max_tokens``
            (docs/evaluation.md).
        lambada: a file of passages for last-word accuracy.
        bias: True for the bundled sentences, or a file of others.
        seed: of the bootstrap.
        resamples: of the bootstrap.
        options: those of ``LLM``, for ``model``.

    Raises ``OptionError`` naming what cannot be honoured, and what ``LLM`` raises.
    """
    if text is None and lambada is None and not bias:
        raise OptionError("there is nothing to measure; give text, lambada or bias")
    if resamples < 1:
        raise OptionError(f"resamples = {resamples} is not positive")
    if seed < 0:
        raise OptionError(f"seed = {seed} is negative")
    sentences = read_sentences(TEMPLATES if bias is True else bias) if bias else ()
    boot: BootstrapOptions = {"seed": seed, "resamples": resamples}
    step = partial(_Counter, progress)
    with open_pair(model, reference, options) as pair:
        report: dict[str, Any] = {"model": describe(model, options)}
        if reference is not None:
            report["reference"] = describe(reference, {})
        passages = (
            None if lambada is None else read_passages(lambada, pair.tokenizer, pair.positions)
        )
        if text is not None:
            first = first_token(pair.model.config)
            form = make_protocol(protocol, pair.positions, context, stride, first)
            tokens = read_text(
                text, pair.tokenizer, form, detokenizer=detokenizer, max_tokens=max_tokens
            )
            report |= _measure_text(pair, tokens, boot, step)
        if passages is not None:
            report["last_word"] = _measure_last_words(pair, passages, boot, step)
        if sentences:
            report["bias"] = _measure_bias(pair, sentences, boot, step)
    report["bootstrap"] = {"level": LEVEL, **boot}
    return report


def _measure_text(
    pair: Pair, text: Text, boot: BootstrapOptions, step: Callable[..., Step]
) -> dict[str, Any]:
    each = step(f"perplexity of {text.file}", len(text.windows))
    if pair.reference is None:
        nats = token_nats(pair.model.logits, text.windows, each)
        return {"perplexity": perplexity(nats, text, **boot)}
    found = compare_logits(pair.reference.logits, pair.model.logits, text.windows, each)
    counted: dict[str, Any] = {"groups": text.groups, "weights": text.weights, **boot}
    return {
        "perplexity": perplexity(found.nats, text, **boot),
        "reference_perplexity": perplexity(found.reference_nats, text, **boot),
        "comparison": compare_perplexity(found.reference_nats, found.nats, text, **boot).as_dict(),
        "kl": interval(found.kl, **counted).as_dict(),
        "top1_agreement": interval(found.agrees, **counted).as_dict(),
    }


def _measure_last_words(
    pair: Pair, passages: Passages, boot: BootstrapOptions, step: Callable[..., Step]
) -> dict[str, Any]:
    what, windows = f"last words of {passages.file}", passages.windows
    found = last_words(pair.model.logits, windows, step(what, len(windows)))
    report = {**passages.facts, **summarize_last_words(found, **boot)}
    if pair.reference is not None:
        before = last_words(
            pair.reference.logits, windows, step(f"{what}, reference", len(windows))
        )
        report["reference"] = summarize_last_words(before, **boot)
        report["comparison"] = compare_last_words(before, found, **boot)
    return report


def _measure_bias(
    pair: Pair, sentences: tuple[Sentence, ...], boot: BootstrapOptions, step: Callable[..., Step]
) -> dict[str, Any]:
    count = len(sentences)
    found = bias_log_odds(pair.model.logits, pair.tokenizer, sentences, step("bias", count))
    report = summarize_bias(found, **boot)
    if pair.reference is not None:
        before = bias_log_odds(
            pair.reference.logits, pair.tokenizer, sentences, step("bias, reference", count)
        )
        report["reference"] = summarize_bias(before, **boot)
        report["comparison"] = compare_bias(before, found, **boot)
    return report


class _Counter:
    """The step callback of a measure, told to a ``Progress``."""

    def __init__(self, progress: Progress | None, what: str, total: int) -> None:
        self._progress, self._what, self._total = progress, what, total
        self._done = 0

    def __call__(self) -> None:
        self._done += 1
        if self._progress is not None:
            self._progress(self._what, self._done, self._total)
