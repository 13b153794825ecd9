"""The tokenizer without transformers gives the ids and texts that transformers gives."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models

from gpt2fast.checkpoint.tokenizer import load_tokenizer
from gpt2fast.engine.detokenizer import Detokenizer
from gpt2fast.engine.prompts import encode
from gpt2fast.errors import CheckpointError

TEXTS = [
    "",
    " ",
    "Hello world",
    "  leading, trailing  ",
    "tabs\tand\nnew\r\nlines\n\n\n  x",
    "don't we'll I'VE they're 'quoted'",
    "naïve café — “quotes” … €9.99",
    "Ελληνικά, Русский, العربية, עברית, हिन्दी, ไทย, 日本語, 한국어, 中文",
    "👩‍👩‍👧‍👦 🏳️‍🌈 🇨🇭 ✊🏽 \U0001f9ff",
    "e\u0301 vs é; \u200b zero \u00a0 width \u2028 line",
    "\x00\x01\x7f\u0080\ufffd\ufeff",
    "1234567890 3.14159 1e-5 0xDEADBEEF",
    "def f(x):\n    return {'a': [x ** 2, ...]}  # comment",
    "a<|endoftext|>b <|endoftext|> c<|endoftext|><|endoftext|>",
    "<|endoftext", "|>", "ⅷ²½ ÆŒ ǅ", "word" * 300,
]  # fmt: skip


@pytest.fixture
def directory(tmp_path: Path, gpt2_tokenizer_files: Path) -> Path:
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(gpt2_tokenizer_files / name, tmp_path / name)
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    return tmp_path


def write(path: Path, files: dict[str, Any]) -> None:
    for name, content in files.items():
        (path / f"{name}.json").write_text(json.dumps(content))


def assert_equal(ours: Any, theirs: Any, texts: list[str]) -> None:
    for text in texts:
        ids = ours.encode(text).ids
        assert ids == theirs(text)["input_ids"], text
        for skip in (False, True):
            want = theirs.decode(ids, skip_special_tokens=skip, clean_up_tokenization_spaces=False)
            assert ours.decode(ids, skip_special_tokens=skip) == want
    assert ours.get_vocab() == theirs.get_vocab()


def test_equals_transformers_and_round_trips(directory: Path) -> None:
    transformers = pytest.importorskip("transformers")
    ours = load_tokenizer(directory)
    assert ours is not None
    assert_equal(ours, transformers.GPT2Tokenizer.from_pretrained(directory), TEXTS)
    assert ours.token_to_id("<|endoftext|>") == 50256 == ours.get_vocab_size() - 1
    for text in TEXTS:
        assert ours.decode(ours.encode(text).ids, skip_special_tokens=False) == text


@pytest.fixture(scope="module")
def pair(gpt2_tokenizer_files: Path) -> tuple[Any, Any]:
    transformers = pytest.importorskip("transformers")
    theirs = transformers.GPT2Tokenizer.from_pretrained(gpt2_tokenizer_files)
    return load_tokenizer(gpt2_tokenizer_files), theirs


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(text=st.text(max_size=60))
def test_any_text_equals_transformers_and_round_trips(pair: tuple[Any, Any], text: str) -> None:
    ours, theirs = pair
    ids = ours.encode(text).ids
    assert ids == theirs(text)["input_ids"]
    assert ours.decode(ids, skip_special_tokens=False) == text


ADDED: dict[str, dict[str, Any]] = {
    "added": {"added_tokens": {"<foo>": 50257, "<pad>": 50258}},
    "added and special": {
        "added_tokens": {"<pad>": 50258, "<foo>": 50257},
        "special_tokens_map": {
            "pad_token": "<pad>",
            "eos_token": {"content": "<|endoftext|>", "lstrip": True, "rstrip": False,
                          "normalized": True, "single_word": False},
        },
    },
    "special alone": {
        "special_tokens_map": {"pad_token": "<pad>", "additional_special_tokens": ["<foo>"]}
    },
    "prefix space and bos": {
        "tokenizer_config": {"pad_token": "<pad>", "add_bos_token": True, "add_prefix_space": True}
    },
    "decoder": {
        "tokenizer_config": {
            "added_tokens_decoder": {
                "50257": {"content": "<foo>", "lstrip": True, "rstrip": False, "normalized": True,
                          "single_word": False, "special": False},
                "50256": {"content": "<|endoftext|>", "lstrip": False, "rstrip": False,
                          "normalized": True, "single_word": False, "special": True},
            }
        },
        "added_tokens": {"<pad>": 50257},
    },
    "as gpt2-medium has it": {
        "tokenizer_config": {
            "add_prefix_space": False, "errors": "replace", "model_max_length": 1024,
            "bos_token": {"__type": "AddedToken", "content": "<|endoftext|>", "lstrip": False,
                          "normalized": True, "rstrip": False, "single_word": False},
        }
    },
}  # fmt: skip


@pytest.mark.parametrize("files", ADDED.values(), ids=ADDED.keys())
def test_added_tokens(directory: Path, files: dict[str, Any]) -> None:
    transformers = pytest.importorskip("transformers")
    strips = isinstance(files.get("special_tokens_map", {}).get("eos_token"), dict)
    if strips and int(transformers.__version__.split(".")[0]) < 5:
        pytest.skip("version 4 reads lstrip of a special token's map entry differently")
    write(directory, files)
    # In version 4 GPT2Tokenizer is another implementation, with other spaces around added tokens.
    theirs = transformers.GPT2TokenizerFast.from_pretrained(directory)
    texts = [*TEXTS, "hi <|endoftext|> <foo>bar <pad>x", "<foo><pad> <foo> \n<pad>"]
    assert_equal(load_tokenizer(directory), theirs, texts)


def test_tokenizer_json_is_preferred_and_never_truncates(directory: Path) -> None:
    ours = load_tokenizer(directory)
    assert ours is not None
    want = [ours.encode(text).ids for text in TEXTS]
    ours.enable_truncation(3)
    ours.enable_padding(length=50)
    ours.save(str(directory / "tokenizer.json"))
    (directory / "vocab.json").write_text("damaged, but not looked at")
    again = load_tokenizer(directory)
    assert again is not None
    assert [again.encode(text).ids for text in TEXTS] == want


@pytest.mark.skipif(sys.platform != "linux", reason="file names elsewhere are Unicode")
def test_a_path_that_is_not_utf8(tmp_path: Path) -> None:
    named = tmp_path / os.fsdecode(b"bad\xff")
    named.mkdir()
    (named / "vocab.json").write_text('{"a": 0}')
    (named / "merges.txt").touch()
    with pytest.raises(CheckpointError, match="no path that is not UTF-8; rename the directory"):
        load_tokenizer(named)
    (named / "tokenizer.json").write_text(HOSTILE)
    tokenizer = load_tokenizer(named)
    assert tokenizer is not None
    assert tokenizer.encode("ab").ids == [2]


def test_none(tmp_path: Path) -> None:
    assert load_tokenizer(tmp_path) is None


HOSTILE = Tokenizer(models.BPE({"a": 0, "b": 1, "ab": 2}, [("a", "b")])).to_str()


def hostile(path: Path, **fields: Any) -> Path:
    """A tokenizer.json with ``fields`` at which the library panics."""
    (path / "tokenizer.json").write_text(json.dumps({**json.loads(HOSTILE), **fields}))
    return path


def test_a_panic_on_loading(tmp_path: Path) -> None:
    hostile(tmp_path, normalizer={"type": "Precompiled", "precompiled_charsmap": "AAAA"})
    with pytest.raises(CheckpointError, match=r"tokenizer\.json: is not a valid tokenizer file"):
        load_tokenizer(tmp_path)


TEMPLATE = {
    "type": "TemplateProcessing",
    "single": [
        {"SpecialToken": {"id": "X", "type_id": 0}},
        {"Sequence": {"id": "A", "type_id": 0}},
    ],
    "pair": [],
    "special_tokens": {},
}


def test_a_panic_on_encoding(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(hostile(tmp_path, post_processor=TEMPLATE))
    with pytest.raises(CheckpointError, match="fails on the prompt"):
        encode(tokenizer, "ab")


def test_an_exception_on_encoding(tmp_path: Path) -> None:
    model = {"type": "WordLevel", "unk_token": "[UNK]", "vocab": {"a": 0}}
    with pytest.raises(CheckpointError, match=r"fails on the prompt.*Missing \[UNK\]"):
        encode(load_tokenizer(hostile(tmp_path, model=model)), "b")


def test_a_panic_on_decoding(tmp_path: Path) -> None:
    strip = {"type": "Strip", "content": "a", "start": 5, "stop": 5}
    tokenizer = load_tokenizer(hostile(tmp_path, decoder=strip))
    with pytest.raises(CheckpointError, match="fails on token ids"):
        Detokenizer(tokenizer).stream(skip_special_tokens=True).push(0)


# Damaged files (None: absent), and what the message must say.
DAMAGED: list[tuple[dict[str, str | None], str]] = [
    ({"tokenizer.json": "{"}, "tokenizer.json: is not a valid tokenizer file"),
    ({"tokenizer.json": "{}"}, "tokenizer.json: is not a valid tokenizer file"),
    ({"vocab.json": "[1]"}, "vocab.json: expected a JSON object"),
    ({"vocab.json": '{"a": "b"}'}, "vocab.json and merges.txt"),
    ({"vocab.json": '{"a": -1}'}, "vocab.json and merges.txt"),
    ({"merges.txt": "no such merge at all\n"}, "vocab.json and merges.txt"),
    ({"merges.txt": "zzzzzz qqqqqq\n"}, "vocab.json and merges.txt"),
    ({"merges.txt": None}, "merges.txt: is missing"),
    ({"vocab.json": None}, "vocab.json: is missing"),
    ({"added_tokens.json": "{"}, "added_tokens.json: is not valid JSON"),
    ({"added_tokens.json": '{"<x>": true}'}, "the id of '<x>' = True"),
    ({"added_tokens.json": '{"<x>": 70000}'}, "'<x>' should have the id 70000"),
    ({"added_tokens.json": '{"": 50257}'}, "content"),
    ({"special_tokens_map.json": '{"pad_token": 3}'}, "pad_token = 3"),
    (
        {"tokenizer_config.json": '{"additional_special_tokens": 3}'},
        "additional_special_tokens = 3",
    ),
    ({"tokenizer_config.json": '{"added_tokens_decoder": "x"}'}, "added_tokens_decoder = 'x'"),
    ({"tokenizer_config.json": '{"added_tokens_decoder": {"one": "<y>"}}'}, "the id of '<y>'"),
    ({"tokenizer_config.json": '{"added_tokens_decoder": {"1": 5}}'}, "1 = 5"),
    ({"tokenizer_config.json": '{"add_prefix_space": "yes"}'}, "add_prefix_space = 'yes'"),
    ({"tokenizer_config.json": '{"eos_token": {"content": "x", "lstrip": 3}}'}, "eos_token = {"),
]


@pytest.mark.parametrize(("files", "says"), DAMAGED)
def test_damaged(directory: Path, files: dict[str, str | None], says: str) -> None:
    for name, content in files.items():
        (directory / name).unlink(missing_ok=True)
        if content is not None:
            (directory / name).write_text(content)
    with pytest.raises(CheckpointError) as caught:
        load_tokenizer(directory)
    assert str(directory) in str(caught.value)
    assert says in str(caught.value)
