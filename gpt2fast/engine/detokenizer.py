"""Token ids to text while they arrive, equal in total to decoding all of them at once."""

from __future__ import annotations

import codecs
from collections.abc import Iterable
from typing import Any, Protocol

from gpt2fast.checkpoint.tokenizer import library_errors


class TextStream(Protocol):
    """Text of a growing list of tokens."""

    def push(self, token: int) -> str:
        """Text that ``token`` makes certain; "" while a character is incomplete."""
        ...

    def flush(self) -> str:
        """What is still held back, incomplete characters as U+FFFD. Ends the stream."""
        ...


class Detokenizer:
    """Makes text streams for one ``tokenizers.Tokenizer``; shared by all requests.

    GPT-2's byte-level vocabularies take a path that is exact by construction: a token is a string
    of bytes, and an incremental UTF-8 decoder joins them. Any other decoder is run again on all
    tokens at each step, and only text that further tokens cannot change is let out.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._byte_level = type(tokenizer.decoder).__name__ == "ByteLevel"
        added = tokenizer.get_added_tokens_decoder()
        self._special = frozenset(token for token, entry in added.items() if entry.special)
        self._bytes: dict[int, bytes] = {}

    def stream(self, skip_special_tokens: bool) -> TextStream:
        """A new, empty stream."""
        if self._byte_level:
            return _ByteLevelStream(self, skip_special_tokens)
        return _GenericStream(self, skip_special_tokens)

    def decode(self, tokens: Iterable[int], skip_special_tokens: bool) -> str:
        """The text of all ``tokens``."""
        with library_errors("the tokenizer, whose files may be damaged, fails on token ids"):
            return str(
                self._tokenizer.decode(list(tokens), skip_special_tokens=skip_special_tokens)
            )

    def token_text(self, token: int) -> str:
        """The text of one token alone; bytes that are no whole character become U+FFFD."""
        return self.decode([token], skip_special_tokens=False)

    def token_bytes(self, token: int, skip_special_tokens: bool) -> bytes:
        """The bytes that ``token`` stands for in a byte-level vocabulary; b"" for an unknown id."""
        if skip_special_tokens and token in self._special:
            return b""
        known = self._bytes.get(token)
        if known is None:
            known = self._bytes[token] = _spelled_bytes(self._tokenizer.id_to_token(token) or "")
        return known


class _ByteLevelStream:
    def __init__(self, detokenizer: Detokenizer, skip_special_tokens: bool) -> None:
        self._detokenizer = detokenizer
        self._skip = skip_special_tokens
        # Python and Rust agree on how many U+FFFD an invalid sequence gives: one for each maximal
        # part of a well-formed one (Unicode 15, section 3.9).
        self._decode = codecs.getincrementaldecoder("utf-8")(errors="replace").decode

    def push(self, token: int) -> str:
        return self._decode(self._detokenizer.token_bytes(token, self._skip))

    def flush(self) -> str:
        return self._decode(b"", True)


class _GenericStream:
    def __init__(self, detokenizer: Detokenizer, skip_special_tokens: bool) -> None:
        self._detokenizer = detokenizer
        self._skip = skip_special_tokens
        self._tokens: list[int] = []
        self._sent = ""

    def push(self, token: int) -> str:
        self._tokens.append(token)
        # A trailing U+FFFD may be the beginning of a character, and trailing white space may be
        # stripped or joined by the decoder when the next token comes.
        return self._advance(self._text().rstrip("\ufffd \t\n"))

    def flush(self) -> str:
        return self._advance(self._text())

    def _text(self) -> str:
        return self._detokenizer.decode(self._tokens, self._skip)

    def _advance(self, text: str) -> str:
        if not text.startswith(self._sent):
            return ""
        piece = text[len(self._sent) :]
        self._sent = text
        return piece


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's spelling of bytes: printable ones stand for themselves, the rest for U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    alphabet = {chr(byte): byte for byte in printable}
    alphabet.update({chr(256 + rank): byte for rank, byte in enumerate(others)})
    return alphabet


_ALPHABET = _byte_alphabet()


def _spelled_bytes(spelling: str) -> bytes:
    # An added token may hold characters outside the alphabet; it then stands for its own text.
    try:
        return bytes([_ALPHABET[character] for character in spelling])
    except KeyError:
        return spelling.encode()
