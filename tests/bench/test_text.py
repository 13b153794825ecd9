"""The perplexity protocol: every token but the first is counted once, from the right rows."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from gpt2fast import LLM
from gpt2fast.bench.text import Text, negative_log_likelihood, read_text
from gpt2fast.errors import OptionError

SAMPLE = "def read(path):\n    with open(path) as file:\n        return file.read()  # é\n" * 8


@pytest.mark.parametrize(("length", "context", "stride"), [(50, 16, 8), (50, 16, 15), (7, 16, 8)])
def test_windows_predict_each_token_once(length: int, context: int, stride: int) -> None:
    text = Text("file", tuple(range(length)), length, context, stride)
    predicted: list[int] = []
    for tokens, counted in text.windows():
        assert len(tokens) <= context
        assert counted < len(tokens), "the first token of a window has nothing before it"
        predicted += tokens[-counted:]
    assert predicted == list(range(1, length))


def test_likelihood_against_the_definition() -> None:
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((200, 11)).astype(np.float32) * 3
    tokens = [int(t) for t in rng.integers(0, 11, 200)]
    exact = logits.astype(np.float64)
    probabilities = np.exp(exact) / np.exp(exact).sum(1, keepdims=True)
    wanted = -sum(math.log(probabilities[t - 1, tokens[t]]) for t in range(200 - 150, 200))
    assert negative_log_likelihood(logits, tokens, 150) == pytest.approx(wanted, rel=1e-9)


def test_quality_of_one_window_is_that_of_the_plain_formula(tmp_path: Path) -> None:
    file = tmp_path / "text.txt"
    file.write_text(SAMPLE, encoding="utf-8")
    llm = LLM("demo", num_threads=1)
    assert llm.tokenizer is not None
    ids = llm.tokenizer.encode(SAMPLE).ids
    path = Path(__file__).resolve().parents[2] / "gpt2fast" / "assets" / "demo"
    text = read_text(file, path, 512, None, 10_000)
    assert list(text.tokens) == ids
    first = llm.tokenizer.decode(ids[:1])
    assert text.bytes == len(SAMPLE.encode()) - len(first.encode())
    rows = llm.logits(ids).astype(np.float64)[:-1]
    rows -= np.log(np.exp(rows).sum(1, keepdims=True))
    nats = -float(rows[np.arange(len(ids) - 1), ids[1:]].sum())
    windows = list(text.windows())
    assert len(windows) == 1
    tokens, counted = windows[0]
    found = text.quality(negative_log_likelihood(llm.logits(tokens), tokens, counted))
    assert found["perplexity"] == pytest.approx(math.exp(nats / (len(ids) - 1)), rel=1e-6)
    assert found["bits_per_byte"] == pytest.approx(nats / math.log(2) / text.bytes, rel=1e-6)


def test_only_the_beginning_is_read(tmp_path: Path) -> None:
    file = tmp_path / "text.txt"
    file.write_text(SAMPLE * 100, encoding="utf-8")
    path = Path(__file__).resolve().parents[2] / "gpt2fast" / "assets" / "demo"
    text = read_text(file, path, 512, 64, 100)
    assert len(text.tokens) == 101
    assert text.protocol["tokens"] == 100
    assert text.protocol["stride"] == 64


def test_not_text(tmp_path: Path) -> None:
    file = tmp_path / "text.bin"
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(OptionError, match="not UTF-8"):
        read_text(file, tmp_path, 512, None, 10)
