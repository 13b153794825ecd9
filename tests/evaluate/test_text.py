"""What is read of a file, and what is counted."""

from __future__ import annotations

import hashlib
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpt2fast import LLM
from gpt2fast.checkpoint import open_checkpoint
from gpt2fast.errors import OptionError
from gpt2fast.evaluate import Protocol, Text, make_protocol, perplexity, read_text, token_nats

SAMPLE = "def read(path):\n    with open(path) as file:\n        return file.read()  # é\n" * 8


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    with open_checkpoint("demo") as checkpoint:
        return checkpoint.load_tokenizer()


def protocol(name: str = "stride", context: int = 512) -> Protocol:
    return make_protocol(name, 512, context, None, prefix=0)


def written(tmp_path: Path, content: str) -> Path:
    file = tmp_path / "text.txt"
    file.write_bytes(content.encode())
    return file


def test_quality_of_one_window_is_that_of_the_plain_formula(tmp_path: Path) -> None:
    file = written(tmp_path, SAMPLE)
    llm = LLM("demo", num_threads=1)
    assert llm.tokenizer is not None
    ids = llm.tokenizer.encode(SAMPLE).ids
    text = read_text(file, llm.tokenizer, protocol())
    assert text.documents == (tuple(ids),)
    assert len(text.windows) == 1
    first = llm.tokenizer.decode(ids[:1])
    assert text.bytes == len(SAMPLE.encode()) - len(first.encode())
    rows = llm.logits(ids).astype(np.float64)[:-1]
    rows -= np.log(np.exp(rows).sum(1, keepdims=True))
    nats = -float(rows[np.arange(len(ids) - 1), ids[1:]].sum())
    found = perplexity(token_nats(llm.logits, text.windows), text)
    assert found["perplexity"] == pytest.approx(math.exp(nats / (len(ids) - 1)), rel=1e-6)
    assert found["bits_per_byte"] == pytest.approx(nats / math.log(2) / text.bytes, rel=1e-6)
    assert found["sha256"] == hashlib.sha256(SAMPLE.encode()).hexdigest()
    assert found["interval"]["perplexity"] is None, "one window has no interval"
    assert (found["tokens"], found["context"], found["stride"]) == (len(ids) - 1, 512, 256)


def test_lm_eval_divides_by_words_and_bytes_of_the_original(tmp_path: Path, tokenizer: Any) -> None:
    content = " \n = One = \n \n a guest @-@ star , é \n \n = Two = \n last \n"
    text = read_text(
        written(tmp_path, content), tokenizer, protocol("lm-eval"), detokenizer="wikitext"
    )
    pages = [" = One = \n \n a guest @-@ star , é \n ", " = Two = \n last \n"]
    plain = ["= One =\n\na guest-star, é\n", "= Two =\nlast\n"]
    assert [tokenizer.decode(list(ids)).strip() for ids in text.documents] == [
        each.strip() for each in plain
    ]
    assert text.words == sum(len(re.split(r"\s+", page)) for page in pages)
    assert text.bytes == sum(len(page.encode()) for page in pages)
    count = sum(map(len, text.documents))
    assert text.num_tokens == count
    found = text.quality(2.0)
    assert found["word_perplexity"] == pytest.approx(math.exp(2.0 * count / text.words))
    assert found["byte_perplexity"] == pytest.approx(math.exp(2.0 * count / text.bytes))
    assert found["bits_per_byte"] == pytest.approx(2.0 * count / text.bytes / math.log(2))


@pytest.mark.parametrize("name", ["stride", "lm-eval"])
def test_only_the_beginning_is_read(name: str, tmp_path: Path, tokenizer: Any) -> None:
    file = written(tmp_path, SAMPLE * 100)
    text = read_text(file, tokenizer, protocol(name, 64), max_tokens=100)
    assert text.num_tokens == 100
    assert text.facts["tokens"] == 100
    whole = tokenizer.encode(SAMPLE * 100).ids
    (found,) = text.documents
    assert list(found) == whole[: len(found)]
    assert text.sha256 == hashlib.sha256((SAMPLE * 100).encode()).hexdigest(), "the whole file's"


def test_the_beginning_of_wikitext_is_whole_articles(tmp_path: Path, tokenizer: Any) -> None:
    file = written(tmp_path, "".join(f" = {n} = \n some text here \n" for n in range(20)))
    some = read_text(file, tokenizer, protocol("lm-eval"), detokenizer="wikitext", max_tokens=30)
    assert 1 < len(some.documents) < 20
    assert some.num_tokens - len(some.documents[-1]) < 30 <= some.num_tokens


def test_bits_a_byte_where_a_window_leaves_a_token_out(tmp_path: Path, tokenizer: Any) -> None:
    """Without an overlap the script never predicts a window's first token."""
    file = written(tmp_path, SAMPLE)
    whole = make_protocol("transformers", 512, 32, 32)
    text: Text = read_text(file, tokenizer, whole)
    assert text.num_tokens == len(text.documents[0]) - len(text.windows)
    nats = 3.0 * (len(text.documents[0]) - 1)
    assert text.quality(3.0)["bits_per_byte"] == pytest.approx(nats / math.log(2) / text.bytes)


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        (b"ab \xff\xfe", {}, "not UTF-8 .byte 0xff at 3"),
        (b"", {}, "has 0 tokens; at least 2"),
        (b" ", {}, "has 1 tokens; at least 2"),
        ("€".encode(), {}, "is a single character"),
        (b"text", {"max_tokens": 0}, "at most 0 tokens"),
        (b"text", {"detokenizer": "moses"}, "detokenizer 'moses' is unknown; choose from none"),
    ],
)
def test_what_cannot_be_measured(
    content: bytes, options: Any, message: str, tmp_path: Path, tokenizer: Any
) -> None:
    file = tmp_path / "text.bin"
    file.write_bytes(content)
    with pytest.raises(OptionError, match=message):
        read_text(file, tokenizer, protocol(), **options)


def test_lm_eval_knows_no_rows(tmp_path: Path, tokenizer: Any) -> None:
    with pytest.raises(OptionError, match="takes 'none' or 'wikitext'"):
        read_text(
            written(tmp_path, "a"), tokenizer, protocol("lm-eval"), detokenizer="wikitext-rows"
        )
    with pytest.raises(OptionError, match="has 0 tokens; at least 1"):
        read_text(written(tmp_path, ""), tokenizer, protocol("lm-eval"))
