"""Token ids to text while they arrive, equal in total to decoding all of them at once."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterable
from typing import Any, Protocol

from gpt2fast.checkpoint.tokenizer import library_errors


class IncrementalDetokenizer(Protocol):
    """Text of a growing list of tokens."""

    def push(self, token: int) -> str:
        """Text that ``token`` makes certain; "" while a character is incomplete."""
        ...

    def flush(self) -> str:
        """What is still held back, incomplete characters as U+FFFD. Ends the stream."""
        ...


class Detokenizer:
    """Makes incremental detokenizers for one ``tokenizers.Tokenizer``; shared by all requests.

    GPT-2's byte-level vocabularies take a path that is exact by construction: a token is a string
    of bytes, and an incremental UTF-8 decoder joins them. Other decoders run on a window of a few
    tokens, if what they make of a token depends on its neighbours alone. With any other decoder a
    later token may change all text before it, so that the text comes at the end.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        parts = _decoder_parts(tokenizer.decoder)
        self._kinds = [part["type"] for part in parts]
        self._is_local = _is_local(parts)
        added = tokenizer.get_added_tokens_decoder()
        self._special = frozenset(token for token, entry in added.items() if entry.special)
        self._bytes: dict[int, bytes] = {}

    def stream(self, skip_special_tokens: bool) -> IncrementalDetokenizer:
        """A new one, without tokens."""
        if self._kinds == ["ByteLevel"]:
            return _ByteLevelDetokenizer(self, skip_special_tokens)
        if self._is_local:
            return _WindowDetokenizer(self, skip_special_tokens)
        return _FinalDetokenizer(self, skip_special_tokens)

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

    def is_dropped(self, token: int, skip_special_tokens: bool) -> bool:
        """Whether the decoder never sees ``token``: a special one to be skipped, or an unknown."""
        if skip_special_tokens and token in self._special:
            return True
        return self._tokenizer.id_to_token(token) is None

    def may_change(self, token: int) -> bool:
        """Whether the next token may change the text of ``token``: one of the bytes ``<0xNN>``, of
        which a run is decoded as a whole (each becomes U+FFFD where the run is no UTF-8)."""
        text = self._tokenizer.id_to_token(token)
        return "ByteFallback" in self._kinds and text.startswith("<0x") and text.endswith(">")


class _ByteLevelDetokenizer:
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


class _WindowDetokenizer:
    """Text of new tokens is what they add to that of a context: a token whose text is not empty, so
    that what a decoder does to the beginning of a text alone is done to it, and the last token."""

    def __init__(self, detokenizer: Detokenizer, skip_special_tokens: bool) -> None:
        self._detokenizer = detokenizer
        self._skip = skip_special_tokens
        self._first: list[int] = []
        self._context: list[int] = []
        self._pending: list[int] = []  # tokens without certain text

    def push(self, token: int) -> str:
        if self._detokenizer.is_dropped(token, self._skip):
            return ""
        self._pending.append(token)
        return "" if self._detokenizer.may_change(token) else self.flush()

    def flush(self) -> str:
        if not self._pending:
            return ""
        text = self._text(self._context + self._pending)[len(self._text(self._context)) :]
        last = self._pending[-1:]
        if not self._first:
            if not text:  # the beginning of the text is still to come
                return ""
            self._first = last if self._text(last) else self._pending
        self._context = self._first + last
        self._pending = []
        return text

    def _text(self, tokens: list[int]) -> str:
        return self._detokenizer.decode(tokens, self._skip)


class _FinalDetokenizer:
    def __init__(self, detokenizer: Detokenizer, skip_special_tokens: bool) -> None:
        self._detokenizer = detokenizer
        self._skip = skip_special_tokens
        self._tokens: list[int] = []

    def push(self, token: int) -> str:
        self._tokens.append(token)
        return ""

    def flush(self) -> str:
        tokens, self._tokens = self._tokens, []
        return self._detokenizer.decode(tokens, self._skip)


def _decoder_parts(decoder: Any) -> list[dict[str, Any]]:
    """The decoders that run one after another, as ``tokenizer.json`` has them; those that are not
    the library's own have the type "custom"."""
    if decoder is None:  # tokens are joined by blanks
        return []
    try:
        parts = [json.loads(decoder.__getstate__())]
    except Exception:  # tokenizers raises nothing more precise
        return [{"type": "custom"}]
    while any(part["type"] == "Sequence" for part in parts):
        parts = [inner for part in parts for inner in part.get("decoders", [part])]
    return parts


def _is_local(parts: list[dict[str, Any]]) -> bool:
    """Whether the text of a token depends on what is next to it alone, and on whether there was
    text before."""
    fused = False
    for part in parts:
        kind = part["type"]
        if fused and kind == "Strip":
            local = part["stop"] == 0
        elif fused and kind == "Replace":
            local = len(part["pattern"].get("String", "")) == 1
        elif kind in ("CTC", "WordPiece", "BPEDecoder"):  # tokens that others change or drop matter
            local = len(parts) == 1
        else:
            local = kind == "Fuse" or (
                not fused and kind in ("ByteFallback", "Metaspace", "Replace", "Strip")
            )
        if not local:
            return False
        fused = fused or kind == "Fuse"
    return True


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
