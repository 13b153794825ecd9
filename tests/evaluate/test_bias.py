"""Log-odds of paired terms, and whether a model has moved them."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpt2fast import LLM
from gpt2fast.errors import OptionError
from gpt2fast.evaluate import (
    BiasOdds,
    bias_log_odds,
    compare_bias,
    evaluate,
    read_sentences,
    summarize_bias,
)
from gpt2fast.evaluate.bias import Sentence


@pytest.fixture(scope="module")
def llm() -> Any:
    with LLM("demo", num_threads=1) as model:
        yield model


def test_the_bundled_sentences() -> None:
    sentences = read_sentences()
    assert len(sentences) == len(set(sentences)) > 150
    texts = [each.text.replace("{term}", term) for each in sentences for term in each.terms]
    assert "The nurse said that she" in texts
    assert not [text for text in texts if "{" in text]
    names = {each.category for each in sentences}
    assert len(names) >= 4
    for name in names:
        words = {each.word for each in sentences if each.category == name}
        assert len(words) >= 10, "an interval over words needs some"


def test_against_the_probabilities_of_the_sentences(llm: LLM) -> None:
    assert llm.tokenizer is not None
    chosen = [
        Sentence("c", "the {word} says that {term}", "file", ("it", "they")),
        Sentence("c", "the {word} of {term} is read.", "file", ("it", "them")),
    ]
    found = bias_log_odds(llm.logits, llm.tokenizer, chosen)
    for sentence, odds in zip(chosen, found.log_odds, strict=True):
        totals = []
        for term in sentence.terms:
            ids = llm.tokenizer.encode(sentence.text.replace("{term}", term)).ids
            rows = llm.logits(ids).astype(np.float64)
            rows -= np.log(np.exp(rows).sum(axis=1, keepdims=True))
            totals.append(sum(rows[t - 1, ids[t]] for t in range(1, len(ids))))
        # What stands before the term is the same in both and cancels.
        assert odds == pytest.approx(totals[0] - totals[1], rel=1e-4, abs=1e-4)


def test_exchanged_terms_change_the_sign(llm: LLM) -> None:
    there = [Sentence("c", "the {word} says that {term}", w, ("it", "they")) for w in "abc"]
    back = [Sentence("c", "the {word} says that {term}", w, ("they", "it")) for w in "abc"]
    one, two = (bias_log_odds(llm.logits, llm.tokenizer, each) for each in (there, back))  # type: ignore[arg-type]
    np.testing.assert_allclose(one.log_odds, -two.log_odds)


def test_two_ends_of_one_token_cost_one_pass(llm: LLM) -> None:
    asked = []

    def score(ids: Sequence[int], /) -> Any:
        asked.append(ids)
        return llm.logits(ids)

    sentence = Sentence("c", "def f({word}): return {term}", "x", ("self", "None"))
    assert llm.tokenizer is not None
    for term in sentence.terms:
        assert len(llm.tokenizer.encode(" " + term).ids) == 1
    bias_log_odds(score, llm.tokenizer, [sentence])
    assert len(asked) == 1


def made(log_odds: Any, words: Sequence[str] = "abcdefgh") -> BiasOdds:
    sentences = tuple(
        Sentence(category, template, word, ("he", "she"))
        for category in ("one", "two")
        for template in ("{word} 1 {term}", "{word} 2 {term}")
        for word in words
    )
    return BiasOdds(sentences, np.asarray(log_odds, dtype=np.float64))


def test_summary_and_change() -> None:
    rng = np.random.default_rng(0)
    base = rng.normal(0, 1, 32) + np.repeat([5.0, -5.0, 2.0, 2.0], 8)
    before = made(base)
    summary = summarize_bias(before)
    one = summary["categories"]["one"]
    assert one["mean"] == pytest.approx(base[:16].mean())
    assert one["groups"] == 8, "words, not sentences, are resampled"
    inner = [base[i : i + 8] - base[i : i + 8].mean() for i in (0, 8)]
    assert one["spread"] == pytest.approx(math.sqrt(np.mean(np.concatenate(inner) ** 2)))
    assert [each["mean"] for each in summary["templates"]] == pytest.approx(
        [base[i : i + 8].mean() for i in range(0, 32, 8)]
    )
    after = made(base + np.where(np.arange(32) < 16, 0.3, 0.0) + rng.normal(0, 0.02, 32))
    moved = compare_bias(before, after)
    assert moved["one"]["changed"]
    assert moved["one"]["change"]["mean"] == pytest.approx(0.3, abs=0.02)
    assert not moved["two"]["changed"]
    assert moved["all"]["change"]["groups"] == 16


def test_what_cancels_in_the_mean_shows_in_the_absolute_change() -> None:
    before = made(np.zeros(32))
    after = made(np.tile([0.5, -0.5], 16))
    moved = compare_bias(before, after)["all"]
    assert not moved["changed"]
    assert moved["absolute_change"]["mean"] == pytest.approx(0.5)
    assert moved["spread_change"] == pytest.approx(0.5)


def test_different_sentences_are_not_compared() -> None:
    with pytest.raises(OptionError, match="different sentences"):
        compare_bias(made(np.zeros(32)), made(np.zeros(32), "ijklmnop"))


def test_in_the_report(tmp_path: Path) -> None:
    file = tmp_path / "templates.json"
    words = ["list", "dict", "file", "name", "path", "key"]
    category = {
        "name": "code",
        "words": words,
        "templates": [{"text": "the {word} says that {term}", "terms": ["it", "they"]}],
    }
    file.write_text(json.dumps({"categories": [category]}))
    report = evaluate("demo", bias=file, reference="demo", quantization="int4", num_threads=1)
    bias = report["bias"]
    change = bias["comparison"]["code"]["change"]["mean"]
    before = bias["reference"]["categories"]["code"]["mean"]
    assert bias["categories"]["code"]["mean"] - before == pytest.approx(change)
    assert change != 0
    json.dumps(report, allow_nan=False)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("nothing", "not a file of templates"),
        ("[]", "not a file of templates"),
        ('{"categories": [{"name": "x"}]}', "it lacks 'templates'"),
        ('{"categories": []}', "has no sentences"),
    ],
)
def test_what_is_no_file_of_templates(content: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "templates.json"
    file.write_text(content)
    with pytest.raises(OptionError, match=message):
        read_sentences(file)


@pytest.mark.parametrize("template", ["{term} is {word}", "a {word}", "a {word} {word} {term}"])
def test_what_is_no_template(template: str, tmp_path: Path) -> None:
    file = tmp_path / "templates.json"
    each = {"text": template, "terms": ["a", "b"]}
    fields = {"categories": [{"name": "x", "words": ["w"], "templates": [each]}]}
    file.write_text(json.dumps(fields))
    with pytest.raises(OptionError, match=r"needs one \{word\} and one \{term\}"):
        read_sentences(file)
