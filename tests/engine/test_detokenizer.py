"""Streamed text is, in total, what decoding all tokens at once gives; and it comes early."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models

from gpt2fast.engine.detokenizer import Detokenizer
from gpt2fast.engine.stop_strings import StopStrings
from support.engine.mock_runner import EOS, byte_tokenizer


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


ODD = ["a", "", "▁", "▁a", "##", "##s", "</w>", "a</w>", ".", "not", "n't", "do", "<pad>", "|", " "]
ODD += ["  a", "<0xC3>", "<0xA9>", "<0xFF>", "<0x41>", "é", "\ufffd", "日", "ab", "Ġ"]
SPACES = decoders.Replace("▁", " ")
OTHER_DECODERS = {
    "none": None,
    "word_piece": decoders.WordPiece(),
    "bpe": decoders.BPEDecoder(),
    "ctc": decoders.CTC(),
    "metaspace": decoders.Metaspace(),
    "metaspace_first": decoders.Metaspace(prepend_scheme="first"),
    "llama": decoders.Sequence(
        [SPACES, decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    ),
    "nested": decoders.Sequence(
        [
            decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()]),
            SPACES,
            decoders.Strip(" ", 2, 0),
        ]
    ),
    "byte_level_in_a_sequence": decoders.Sequence([decoders.ByteLevel()]),
    "replace": decoders.Sequence([decoders.Fuse(), decoders.Replace("ab", "x")]),
    "ctc_first": decoders.Sequence([decoders.CTC(), decoders.BPEDecoder()]),
    "several": decoders.Sequence([decoders.BPEDecoder(), decoders.Replace("a ", "b")]),
    "byte_level_first": decoders.Sequence([decoders.ByteLevel(), decoders.Replace("ab", "x")]),
}


def tokenizer_with(decoder: Any) -> Tokenizer:
    vocab = {text: rank for rank, text in enumerate(ODD)}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="a"))
    tokenizer.add_special_tokens(["<s>"])
    if decoder is not None:
        tokenizer.decoder = decoder
    return tokenizer


@pytest.mark.parametrize("name", OTHER_DECODERS)
@settings(max_examples=150, deadline=None)
@given(tokens=st.lists(st.integers(0, len(ODD) + 1), max_size=12), skip=st.booleans())
def test_other_decoders_join_too(name: str, tokens: list[int], skip: bool) -> None:
    tokenizer = tokenizer_with(OTHER_DECODERS[name])
    whole = tokenizer.decode(tokens, skip_special_tokens=skip)
    assert "".join(pieces(Detokenizer(tokenizer), tokens, skip)) == whole


def streamed(name: str, texts: list[str]) -> list[str]:
    tokenizer = tokenizer_with(OTHER_DECODERS[name])
    return pieces(Detokenizer(tokenizer), [ODD.index(text) for text in texts], True)


def test_other_decoders_give_text_at_once() -> None:
    assert streamed("word_piece", ["a", "##s", "do", "."]) == ["a", "s", " do", ".", ""]
    assert streamed("bpe", ["a</w>", "a", "do"]) == ["a", " a", "do", ""]
    assert streamed("metaspace", ["▁a", "▁a", "▁", "do"]) == ["a", " a", " ", "do", ""]
    # A run of bytes that turns out to be no UTF-8 becomes U+FFFD, all of it.
    assert streamed("llama", ["▁a", "<0xC3>", "<0xA9>", "a"]) == ["a", "", "", "éa", ""]
    assert streamed("llama", ["a", "<0xC3>", "<0xA9>", "<0xFF>"])[-1] == "\ufffd\ufffd\ufffd"
    assert streamed("replace", ["a", "ab"]) == ["", "", "ax"]


class PythonDecoder:
    def decode_chain(self, tokens: list[str]) -> list[str]:
        return tokens[::-1]


def test_a_decoder_in_python_gives_its_text_at_the_end() -> None:
    tokenizer = tokenizer_with(decoders.Decoder.custom(PythonDecoder()))
    assert pieces(Detokenizer(tokenizer), [0, 8], True) == ["", "", ".a"]


@pytest.mark.parametrize("name", ["word_piece", "llama"])
def test_a_token_costs_the_same_after_a_long_text(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[int] = []
    decode = Detokenizer.decode

    def counting(self: Detokenizer, tokens: list[int], skip_special_tokens: bool) -> str:
        decoded.append(len(tokens))
        return decode(self, tokens, skip_special_tokens)

    monkeypatch.setattr(Detokenizer, "decode", counting)
    streamed(name, ["▁a", "a", "<0x41>", ".", ""] * 40)
    assert max(decoded) <= 5


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
