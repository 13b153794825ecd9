"""Tokens and the windows a step sees."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt2fast.errors import OptionError
from gpt2fast.train.corpus import Document
from gpt2fast.train.data import FixedWindows, WindowSampler, evaluation_batches, tokenize
from gpt2fast.train.tokenizer import END_OF_TEXT, train_tokenizer


@settings(deadline=None)
@given(
    length=st.integers(20, 400),
    context=st.integers(2, 10),
    seed=st.integers(0, 2**62),
    cut=st.integers(0, 50),
)
def test_an_epoch_visits_every_window_once(length: int, context: int, seed: int, cut: int) -> None:
    sampler = WindowSampler(np.arange(length, dtype=np.int32), context, seed)
    n = sampler.windows_per_epoch
    rows = sampler.batch(n, n)  # the second epoch
    assert (np.diff(rows, axis=1) == 1).all(), "each row is a run of neighbours"
    assert rows.max() < length
    inputs = rows[:, :-1].ravel()
    assert len(np.unique(inputs)) == inputs.size >= length - 2 * context
    parts = [sampler.batch(n, cut), sampler.batch(n + cut, 60)]
    np.testing.assert_array_equal(np.concatenate(parts), sampler.batch(n, cut + 60))


def test_epochs_and_seeds_differ() -> None:
    tokens = np.arange(5000, dtype=np.int32)
    first = WindowSampler(tokens, 16, 0)
    n = first.windows_per_epoch
    assert not np.array_equal(first.batch(0, n), first.batch(n, n))
    assert not np.array_equal(first.batch(0, n), WindowSampler(tokens, 16, 1).batch(0, n))


@settings(deadline=None)
@given(
    length=st.integers(20, 400),
    context=st.integers(2, 10),
    seed=st.integers(0, 2**62),
    cut=st.integers(0, 50),
)
def test_fixed_windows_are_the_same_in_every_epoch(
    length: int, context: int, seed: int, cut: int
) -> None:
    sampler = FixedWindows.cut(np.arange(length, dtype=np.int32), context, seed)
    n = len(sampler.windows)
    assert n == (length - 1) // context
    assert sampler.context == context
    orders = [sampler.numbers(epoch * n, n) for epoch in range(3)]
    for order in orders:
        np.testing.assert_array_equal(np.sort(order), np.arange(n))
    if n > 8:
        assert any((order != orders[0]).any() for order in orders[1:])
    parts = [sampler.numbers(n, cut), sampler.numbers(n + cut, 60)]
    np.testing.assert_array_equal(np.concatenate(parts), sampler.numbers(n, cut + 60))
    rows = sampler.batch(n, n)
    np.testing.assert_array_equal(rows[:, 0], orders[1] * context)
    assert (np.diff(rows, axis=1) == 1).all()


def test_too_small_a_corpus_is_refused() -> None:
    with pytest.raises(OptionError, match="too small: 31 training tokens"):
        WindowSampler(np.zeros(31, np.int32), 16, 0)
    assert WindowSampler(np.zeros(32, np.int32), 16, 0).windows_per_epoch == 1


@settings(deadline=None)
@given(st.integers(2, 200), st.integers(1, 30), st.integers(1, 5))
def test_evaluation_predicts_every_token_once(length: int, context: int, batch_size: int) -> None:
    batches = evaluation_batches(np.arange(length, dtype=np.int32), context, batch_size)
    targets = np.concatenate([rows[:, 1:].ravel() for rows in batches])
    np.testing.assert_array_equal(targets, np.arange(1, length))
    assert max(rows.shape[0] for rows in batches) <= batch_size
    assert max(rows.shape[1] for rows in batches) <= context + 1


def test_tokens_give_the_text_back() -> None:
    texts = ["def f(x):\n    return x  # naïve 🙂\n", "\tother\r\ndocument  "] * 50
    tokenizer = train_tokenizer(texts, 290)
    end = tokenizer.token_to_id(END_OF_TEXT)
    tokens = tokenize(tokenizer, [Document(str(i), t) for i, t in enumerate(texts)], end)
    assert (tokens == end).sum() == 100
    assert tokens[-1] == end
    decoded = tokenizer.decode(tokens.tolist(), skip_special_tokens=False)
    assert decoded == "".join(text + END_OF_TEXT for text in texts)


def test_bytes_never_seen_are_still_encoded() -> None:
    tokenizer = train_tokenizer(["aaaa bbbb abab"], 259)
    text = "ÿ漢 🙂\x00"
    assert tokenizer.decode(tokenizer.encode(text).ids) == text


@pytest.mark.parametrize(("size", "message"), [(256, "at least 257"), (5000, "fewer than")])
def test_impossible_vocabularies_are_refused(size: int, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        train_tokenizer(["a few words"], size)
