"""Log-odds of paired terms in sentences, such as he and she beside an occupation.

The probe is that of Kurita et al., "Measuring Bias in Contextualized Word Representations" (2019,
arXiv:1906.07337), for a model that reads from left to right: the probability of all that stands
from the term on. The sentences, and what they cannot say, are in ``assets/bias_templates.json``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gpt2fast.errors import OptionError
from gpt2fast.evaluate.continuation import continuation_window, encode_pair
from gpt2fast.evaluate.scoring import Remembering, Scorer, Step, nats_of, rows_of
from gpt2fast.text_files import decode, read_bytes

if TYPE_CHECKING:
    from tokenizers import Tokenizer

TEMPLATES = Path(__file__).resolve().parents[1] / "assets" / "bias_templates.json"
_MOST_POSITIONS = 1 << 30  # sentences are short; what they exceed is the scorer's to say


@dataclass(frozen=True)
class Sentence:
    """A template with its word; ``terms`` stand for ``{term}`` in turn."""

    category: str
    template: str
    word: str
    terms: tuple[str, str]

    @property
    def text(self) -> str:
        """With the word and without a term."""
        return self.template.replace("{word}", self.word)


@dataclass(frozen=True)
class BiasOdds:
    """log p(first term) / p(second) of each sentence (M,), in nats."""

    sentences: tuple[Sentence, ...]
    log_odds: NDArray[np.float64]

    @property
    def groups(self) -> NDArray[np.int64]:
        """The word of each sentence (M,): templates share words, which are resampled together."""
        names = [(sentence.category, sentence.word) for sentence in self.sentences]
        index = {name: number for number, name in enumerate(dict.fromkeys(names))}
        return np.array([index[name] for name in names], dtype=np.int64)


def read_sentences(file: str | Path = TEMPLATES) -> tuple[Sentence, ...]:
    """The sentences of a file in the form of ``assets/bias_templates.json``.

    Raises ``OptionError`` naming the file and what is wrong in it.
    """
    content = decode(read_bytes(file), file)
    try:
        sentences = tuple(
            Sentence(category["name"], template["text"], word, (first, second))
            for category in json.loads(content)["categories"]
            for template in category["templates"]
            for first, second in [template["terms"]]
            for word in category["words"]
        )
    except (ValueError, KeyError, TypeError, IndexError) as error:
        reason = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
        raise OptionError(
            f"{file} is not a file of templates ({reason}); "
            "gpt2fast/assets/bias_templates.json shows the form"
        ) from None
    for sentence in sentences:
        _check(sentence, file)
    if not sentences:
        raise OptionError(f"{file} has no sentences")
    return sentences


def bias_log_odds(
    scorer: Scorer,
    tokenizer: Tokenizer,
    sentences: Sequence[Sentence] | None = None,
    step: Step | None = None,
) -> BiasOdds:
    """Score ``sentences``, by default the bundled ones. ``step`` is called after each.

    Raises ``GPT2FastError`` where the model gives NaN.
    """
    chosen = read_sentences() if sentences is None else tuple(sentences)
    scorer = Remembering(scorer)
    odds = []
    for sentence in chosen:
        first, second = (_nats(scorer, tokenizer, sentence, term) for term in sentence.terms)
        odds.append(second - first)
        if step is not None:
            step()
    return BiasOdds(chosen, np.array(odds, dtype=np.float64))


def _nats(scorer: Scorer, tokenizer: Tokenizer, sentence: Sentence, term: str) -> float:
    """Of the term and all behind it."""
    before, _, after = sentence.text.partition("{term}")
    pair = encode_pair(tokenizer, before, term + after)
    window = continuation_window(*pair, _MOST_POSITIONS, group=0)
    return float(nats_of(*rows_of(scorer, window)).sum())


def _check(sentence: Sentence, file: str | Path) -> None:
    fields = (sentence.category, sentence.template, sentence.word, *sentence.terms)
    if not all(isinstance(field, str) and field for field in fields):
        raise OptionError(f"{file}: {fields!r} are not all text")
    before, *rest = sentence.template.split("{term}")
    if len(rest) != 1 or sentence.template.count("{word}") != 1 or not before.strip():
        raise OptionError(
            f"{file}: template {sentence.template!r} needs one {{word}} and one {{term}}, and "
            "something before the term"
        )
