"""Streamed text is, in total, what decoding all tokens at once gives; and it comes early."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from engine.mock_runner import EOS, byte_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models

from gpt2fast.engine.detokenizer import Detokenizer
from gpt2fast.engine.stop_strings import StopStrings


def tokenizer_with_odd_tokens() -> Tokenizer:
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens([AddedToken(text) for text in ("é a", "Ġx", "two words", "日本")])
    tokenizer.add_special_tokens(["<|ü|>"])
    return tokenizer


TOKENIZER = tokenizer_with_odd_tokens()
DETOKENIZER = Detokenizer(TOKENIZER)
CHARACTERS = list("😀é日a".encode())
tokens_lists = st.lists(
    st.one_of(st.sampled_from(CHARACTERS), st.integers(0, 255), st.integers(EOS, 270)), max_size=30
)


def pieces(detokenizer: Detokenizer, tokens: list[int], skip: bool) -> list[str]:
    stream = detokenizer.stream(skip)
    return [*(stream.push(token) for token in tokens), stream.flush()]


@settings(max_examples=400, deadline=None)
@given(tokens=tokens_lists, skip=st.booleans())
def test_pieces_join_to_the_whole(tokens: list[int], skip: bool) -> None:
    whole = TOKENIZER.decode(tokens, skip_special_tokens=skip)
    assert "".join(pieces(DETOKENIZER, tokens, skip)) == whole


@settings(max_examples=100, deadline=None)
@given(text=st.text(max_size=20))
def test_valid_text_never_shows_a_replacement_character(text: str) -> None:
    parts = pieces(DETOKENIZER, list(text.encode()), True)
    assert "".join(parts) == text
    assert "".join(parts).count("\ufffd") == text.count("\ufffd")
    assert parts[-1] == ""


def test_a_character_comes_out_with_its_last_byte() -> None:
    assert pieces(DETOKENIZER, list("a😀b".encode()), True) == ["a", "", "", "", "😀", "b", ""]
    assert pieces(DETOKENIZER, list("😀".encode())[:3], True) == ["", "", "", "\ufffd"]


def test_emoji_split_across_real_tokens(gpt2_tokenizer_files: Path) -> None:
    from gpt2fast.checkpoint.tokenizer import load_tokenizer

    tokenizer: Any = load_tokenizer(gpt2_tokenizer_files)
    text = "naïve 🦜🏳️‍🌈 日本語 <|endoftext|> ok"
    ids = tokenizer.encode(text).ids
    for skip in (True, False):
        parts = pieces(Detokenizer(tokenizer), ids, skip)
        assert "".join(parts) == tokenizer.decode(ids, skip_special_tokens=skip)
        assert "\ufffd" not in "".join(parts)
        assert parts.count("") > 1


def test_other_decoders_join_too() -> None:
    vocab = {"[UNK]": 0, "play": 1, "##ing": 2, "the": 3, ",": 4, "##s": 5}
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    tokenizer.decoder = decoders.WordPiece()
    for tokens in ([3, 1, 2, 4, 1, 5], [1], [], [2, 2], [4, 4, 3]):
        assert "".join(pieces(Detokenizer(tokenizer), tokens, True)) == tokenizer.decode(tokens)


def stopped(strings: list[str], parts: list[str], include: bool = False) -> tuple[str, str | None]:
    stop, text = StopStrings(strings, include), ""
    for part in parts:
        free, found = stop.push(part)
        text += free
        if found is not None:
            return text, found
    return text + stop.flush(), None


def first_stop(strings: list[str], text: str, include: bool) -> tuple[str, str | None]:
    """Character by character: the first prefix that ends in a stop string; the longest of them."""
    for end in range(1, len(text) + 1):
        found = [string for string in strings if text[:end].endswith(string)]
        if found:
            longest = max(found, key=len)
            return text[: end if include else end - len(longest)], longest
    return text, None


@settings(max_examples=500, deadline=None)
@given(
    strings=st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=3),
    parts=st.lists(st.text("abc", max_size=4), max_size=10),
    include=st.booleans(),
)
def test_stop_does_not_depend_on_the_pieces(
    strings: list[str], parts: list[str], include: bool
) -> None:
    assert stopped(strings, parts, include) == first_stop(strings, "".join(parts), include)


@pytest.mark.parametrize(
    ("parts", "released"),
    [(["x\n"], ["x"]), (["\n", "\n"], ["", ""]), (["\n", "y"], ["", "\ny"]), (["xy"], ["xy"])],
)
def test_only_a_possible_beginning_is_held_back(parts: list[str], released: list[str]) -> None:
    stop = StopStrings(["\n\n"], include=False)
    assert [stop.push(part)[0] for part in parts] == released


def test_a_passed_over_stop_does_not_count_later() -> None:
    stop = StopStrings(["b", "abc"], include=False)
    assert stop.push("ab", may_stop=False) == ("", None)
    assert stop.push("x") == ("abx", None)
    assert stop.push("b") == ("", "b")
