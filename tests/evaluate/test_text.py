"""What is read of a file, and what is counted."""

from __future__ import annotations

import hashlib
import math
import re
import warnings
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
        (b"", {}, r"text\.bin: the file is empty"),
        (b" ", {}, "has 1 tokens; at least 2"),
        ("€".encode(), {}, "is a single character"),
        (b"text", {"max_tokens": 0}, "max_tokens = 0"),
        (b"text", {"detokenizer": "moses"}, "detokenizer = 'moses' is unknown; choose from none"),
    ],
)
def test_what_cannot_be_measured(
    content: bytes, options: Any, message: str, tmp_path: Path, tokenizer: Any
) -> None:
    file = tmp_path / "text.bin"
    file.write_bytes(content)
    with pytest.raises(OptionError, match=message):
        read_text(file, tokenizer, protocol(), **options)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b.py", "a.txt", "sub/c.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"# {name}\n{SAMPLE}")
    (tmp_path / "empty.txt").touch()
    (tmp_path / "picture.png").write_bytes(b"\x89PNG")
    return tmp_path


@pytest.mark.parametrize("name", ["stride", "transformers", "lm-eval"])
def test_each_file_of_a_directory_is_a_document(name: str, folder: Path, tokenizer: Any) -> None:
    form = protocol(name, 64)
    text = read_text(folder, tokenizer, form)
    alone = [read_text(folder / each, tokenizer, form) for each in ("a.txt", "b.py", "sub/c.md")]
    assert text.documents == tuple(each.documents[0] for each in alone)
    assert (text.file, text.files) == (str(folder), 3)
    assert text.num_tokens == sum(each.num_tokens for each in alone)
    assert text.bytes == sum(each.bytes for each in alone)
    assert text.words == sum(each.words for each in alone)
    assert len(text.windows) == sum(len(each.windows) for each in alone)
    # No two windows, or under lm-eval documents, are resampled as one.
    units = 3 if name == "lm-eval" else len(text.windows)
    assert len(set(text.groups.tolist())) == units
    nats = [each.quality(2.0)["bits_per_byte"] * each.bytes for each in alone]
    assert text.quality(2.0)["bits_per_byte"] * text.bytes == pytest.approx(sum(nats))
    together = b"".join((folder / each).read_bytes() for each in ("a.txt", "b.py", "sub/c.md"))
    assert text.sha256 == hashlib.sha256(together).hexdigest()


def test_several_files_and_globs_are_read_once(folder: Path, tokenizer: Any) -> None:
    paths = [str(folder / "b.py"), str(folder / "*.txt"), folder / "b.py"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        text = read_text(paths, tokenizer, protocol())
    assert text.files == len(text.documents) == 2
    assert text.file == ", ".join(map(str, paths))


@pytest.mark.parametrize("name", ["stride", "lm-eval"])
def test_the_beginning_may_end_in_a_later_file(name: str, folder: Path, tokenizer: Any) -> None:
    first = read_text(folder / "a.txt", tokenizer, protocol(name)).num_tokens
    text = read_text(folder, tokenizer, protocol(name), max_tokens=first + 10)
    assert text.num_tokens == first + 10
    assert len(text.documents) == 2
    assert len(read_text(folder, tokenizer, protocol(name), max_tokens=first).documents) == 1


def test_files_that_say_nothing_are_named(folder: Path, tokenizer: Any) -> None:
    empty = str(folder / "empty.txt")
    with pytest.raises(OptionError, match=r"empty\.txt: the file is empty; give text"):
        read_text(empty, tokenizer, protocol())
    with pytest.warns(UserWarning, match=r"empty\.txt is empty and left out"):
        assert read_text([empty, str(folder / "b.py")], tokenizer, protocol()).files == 1
    with pytest.raises(OptionError, match=r"picture\.png cannot be read: it is not UTF-8"):
        read_text([folder / "b.py", folder / "picture.png"], tokenizer, protocol())
    with pytest.raises(OptionError, match="cannot be read: File name too long"):
        read_text("the text itself " * 100, tokenizer, protocol())
    (folder / "hollow").mkdir()
    with pytest.raises(OptionError, match="hollow: no text files there"):
        read_text(folder / "hollow", tokenizer, protocol())


def test_lm_eval_knows_no_rows(tmp_path: Path, tokenizer: Any) -> None:
    with pytest.raises(OptionError, match="takes 'none' or 'wikitext'"):
        read_text(
            written(tmp_path, "a"), tokenizer, protocol("lm-eval"), detokenizer="wikitext-rows"
        )
    with pytest.raises(OptionError, match="the file is empty"):
        read_text(written(tmp_path, ""), tokenizer, protocol("lm-eval"))
