"""Last-word accuracy as lm-evaluation-harness defines it."""

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
    compare_last_words,
    evaluate,
    last_words,
    read_passages,
    summarize_last_words,
)
from gpt2fast.evaluate.continuation import continuation_window, encode_pair

PASSAGES = [
    "import os\nimport sys",
    "with open(path) as file",
    "for key in self.items(): print( key )",
    "if name is None: raise ValueError",
    "def __init__(self, name): self.name = name",
    "except KeyError as error: raise TypeError from error",
]


@pytest.fixture(scope="module")
def llm() -> Any:
    with LLM("demo", num_threads=1) as model:
        yield model


def as_json(tmp_path: Path, texts: Sequence[str]) -> Path:
    file = tmp_path / "passages.jsonl"
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return file


def test_against_the_definition(llm: LLM, tmp_path: Path) -> None:
    """The definition, token by token: generate greedily behind all but the last word."""
    assert llm.tokenizer is not None
    passages = read_passages(as_json(tmp_path, PASSAGES), llm.tokenizer, 512)
    found = last_words(llm.logits, passages.windows)
    for text, nats, correct in zip(PASSAGES, found.nats, found.correct, strict=True):
        context = " ".join(text.split(" ")[:-1])
        ids = llm.tokenizer.encode(context).ids
        word = llm.tokenizer.encode(text).ids[len(ids) :]
        assert llm.tokenizer.decode(word) == " " + text.split(" ")[-1]
        total, greedy = 0.0, []
        for token in word:
            row = llm.logits(ids)[-1].astype(np.float64)
            total += math.log(np.exp(row - row.max()).sum()) + row.max() - row[token]
            greedy.append(int(row.argmax()))
            ids = [*ids, token]
        assert nats == pytest.approx(total, rel=1e-5)
        assert correct == (greedy == word)
    assert 0 < found.correct.sum() < len(PASSAGES), "both cases are tried"
    report = summarize_last_words(found)
    assert report["perplexity"]["mean"] == pytest.approx(math.exp(found.nats.mean()))
    assert report["accuracy"]["mean"] == found.correct.mean()


def test_plain_text_gives_the_same(llm: LLM, tmp_path: Path) -> None:
    texts = [text for text in PASSAGES if "\n" not in text]
    plain = tmp_path / "plain.txt"
    plain.write_text("\n\n".join(f"  {text} " for text in texts))
    one = read_passages(plain, llm.tokenizer, 512)  # type: ignore[arg-type]
    two = read_passages(as_json(tmp_path, texts), llm.tokenizer, 512)  # type: ignore[arg-type]
    assert one.windows == two.windows
    assert one.facts["passages"] == len(texts)


def test_a_long_passage_loses_its_beginning(llm: LLM, tmp_path: Path) -> None:
    assert llm.tokenizer is not None
    text = "word " * 600 + "end"
    (window,) = read_passages(as_json(tmp_path, [text]), llm.tokenizer, 64).windows
    assert len(window.tokens) == 65
    assert window.tokens == tuple(llm.tokenizer.encode(text).ids[-65:])


def test_two_models(tmp_path: Path) -> None:
    file = as_json(tmp_path, PASSAGES)
    report = evaluate("demo", lambada=file, reference="demo", quantization="int4", num_threads=1)
    found = report["last_word"]
    gain = found["accuracy"]["mean"] - found["reference"]["accuracy"]["mean"]
    assert found["comparison"]["accuracy_difference"]["mean"] == pytest.approx(gain)
    ratio = found["perplexity"]["mean"] / found["reference"]["perplexity"]["mean"]
    assert found["comparison"]["perplexity"]["percent"] == pytest.approx(100 * (ratio - 1))
    json.dumps(report, allow_nan=False)


def test_pairs_of_passages(llm: LLM, tmp_path: Path) -> None:
    windows = read_passages(as_json(tmp_path, PASSAGES), llm.tokenizer, 512).windows  # type: ignore[arg-type]
    found = last_words(llm.logits, windows)
    same = compare_last_words(found, found)
    assert same["accuracy_difference"]["mean"] == same["perplexity"]["percent"] == 0.0


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "has no passages"),
        ("two words\nword\n", "line 2: a passage needs two words"),
        ('{"text": "two words"}\nplain words\n', "line 2: is not JSON"),
        ('{"text": "two words"}\n{"page": "x"}\n', 'line 2: has no "text"'),
        ('{"text": "two words"}\n["x"]\n', 'line 2: has no "text"'),
    ],
)
def test_what_is_no_passage(content: str, message: str, llm: LLM, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text(content)
    with pytest.raises(OptionError, match=message):
        read_passages(file, llm.tokenizer, 512)  # type: ignore[arg-type]


def test_spaces_at_the_end_of_a_context_belong_to_the_continuation(llm: LLM) -> None:
    assert llm.tokenizer is not None
    wanted = encode_pair(llm.tokenizer, "import os", " import")
    assert encode_pair(llm.tokenizer, "import os ", "import") == wanted
    assert llm.tokenizer.decode([*wanted[0], *wanted[1]]) == "import os import"


def test_what_is_no_continuation() -> None:
    with pytest.raises(OptionError, match="at least one token each"):
        continuation_window((), (1,), 8, 0)
    with pytest.raises(OptionError, match="9 tokens exceeds the context of 8"):
        continuation_window((1,), (1,) * 9, 8, 0)
