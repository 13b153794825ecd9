"""A text file as token ids, with everything that must be known to measure on it again."""

from __future__ import annotations

import hashlib
import math
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gpt2fast.errors import OptionError
from gpt2fast.evaluate import wikitext
from gpt2fast.evaluate.windows import Protocol, Window, groups_of, weights_of

if TYPE_CHECKING:
    from tokenizers import Tokenizer

DETOKENIZERS = ("none", "wikitext", "wikitext-rows")
_CHARACTERS = 16  # no text has as many a token on average


@dataclass(frozen=True)
class Text:
    """A tokenized text under a protocol.

    ``bytes`` are the UTF-8 bytes of what is predicted, ``words`` what white space separates; under
    lm-eval's protocol both are those of the file before it was detokenized.
    """

    file: str
    sha256: str  # of the whole file
    detokenizer: str
    documents: tuple[tuple[int, ...], ...]
    bytes: int
    words: int
    protocol: Protocol

    @cached_property
    def windows(self) -> tuple[Window, ...]:
        """What the models read, in order."""
        return tuple(self.protocol.windows(self.documents))

    @cached_property
    def groups(self) -> NDArray[np.int64]:
        """The window or document of each predicted token (N,), for intervals."""
        return groups_of(self.windows)

    @cached_property
    def weights(self) -> NDArray[np.float64]:
        """The weight of each predicted token (N,) in the protocol's mean."""
        return weights_of(self.windows)

    @property
    def num_tokens(self) -> int:
        """How many tokens are predicted."""
        return sum(window.counted for window in self.windows)

    @property
    def facts(self) -> dict[str, Any]:
        """What must be known to repeat the measurement."""
        protocol = self.protocol
        return {
            "file": self.file,
            "sha256": self.sha256,
            "protocol": protocol.name,
            "detokenizer": self.detokenizer,
            "context": protocol.context,
            "stride": protocol.stride,
            "denominator": "tokens predicted",
            "documents": len(self.documents),
            "windows": len(self.windows),
            "tokens": self.num_tokens,
            "words": self.words,
            "bytes": self.bytes,
        }

    def quality(self, nats_per_token: float) -> dict[str, float]:
        """Perplexity a token and bits a byte; under lm-eval's protocol also perplexity a word and a
        byte. All grow with ``nats_per_token``, so bounds of an interval can be turned into theirs.
        """
        before = 0 if self.protocol.name == "lm-eval" else 1  # tokens that are never predicted
        nats = nats_per_token * (sum(map(len, self.documents)) - before)
        found = {
            "perplexity": _exp(nats_per_token),
            "bits_per_byte": nats / math.log(2) / self.bytes,
        }
        if self.protocol.name == "lm-eval":
            found["word_perplexity"] = _exp(nats / self.words)
            found["byte_perplexity"] = _exp(nats / self.bytes)
        return found


def read_text(
    file: str | Path,
    tokenizer: Tokenizer,
    protocol: Protocol,
    *,
    detokenizer: str = "none",
    max_tokens: int | None = None,
) -> Text:
    """``file`` under ``tokenizer``, or its beginning.

    Of ``max_tokens`` predicted tokens at most; under lm-eval's protocol with the wikitext
    detokenizer, whole articles until there are as many. Raises ``OptionError`` naming what is wrong
    with the file.
    """
    if detokenizer not in DETOKENIZERS:
        raise OptionError(
            f"detokenizer {detokenizer!r} is unknown; choose from {', '.join(DETOKENIZERS)}"
        )
    if max_tokens is not None and max_tokens < 1:
        raise OptionError(f"at most {max_tokens} tokens: at least 1 is needed")
    data = read_bytes(file)
    content = decode(data, file)
    if protocol.name == "lm-eval":
        parts = _separately(content, tokenizer, detokenizer, max_tokens)
    else:
        parts = _as_one(content, tokenizer, detokenizer, max_tokens)
    text = Text(str(file), hashlib.sha256(data).hexdigest(), detokenizer, *parts, protocol)
    if text.num_tokens < 1:
        least = 1 if protocol.name == "lm-eval" else 2
        count = sum(map(len, text.documents))
        raise OptionError(f"{file} has {count} tokens; at least {least} are needed")
    if text.bytes < 1:  # tokens of one character, whose bytes count at its last one
        raise OptionError(f"{file} is a single character; give more text")
    return text


def read_bytes(file: str | Path) -> bytes:
    """The whole file. Raises ``OptionError`` naming it."""
    try:
        return Path(file).expanduser().read_bytes()
    except OSError as error:
        raise OptionError(f"{file} cannot be read: {error.strerror}") from None


def decode(data: bytes, file: str | Path) -> str:
    """``data`` of ``file`` as text. Raises ``OptionError`` naming the first byte that is not."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise OptionError(
            f"{file} cannot be read: it is not UTF-8 (byte 0x{data[error.start]:02x} at "
            f"{error.start}); convert it"
        ) from None


_Parts = tuple[tuple[tuple[int, ...], ...], int, int]  # documents, bytes, words


def _as_one(content: str, tokenizer: Tokenizer, detokenizer: str, most: int | None) -> _Parts:
    if most is not None:  # a whole book need not be tokenized
        content = content[: 2 * _CHARACTERS * (most + 1)]
    if detokenizer == "wikitext":
        content = "\n".join(map(wikitext.detokenize, wikitext.pages(content)))
    elif detokenizer == "wikitext-rows":
        content = wikitext.rows(content)
    if most is not None:
        content = content[: _CHARACTERS * (most + 1)]
    encoding = tokenizer.encode(content)
    count = len(encoding.ids) if most is None else min(len(encoding.ids), most + 1)
    if count < 2:
        return ((tuple(encoding.ids),), 0, 0)
    predicted = content[encoding.offsets[0][1] : encoding.offsets[count - 1][1]]
    return ((tuple(encoding.ids[:count]),), len(predicted.encode()), len(predicted.split()))


def _separately(content: str, tokenizer: Tokenizer, detokenizer: str, most: int | None) -> _Parts:
    if detokenizer == "wikitext":
        originals = wikitext.pages(content)
    elif detokenizer == "none":
        originals = [_cut(content, tokenizer, most)]
    else:
        raise OptionError(
            f"detokenizer {detokenizer!r} is of transformers' script; lm-eval's takes 'none' "
            "or 'wikitext'"
        )
    documents: list[tuple[int, ...]] = []
    num_bytes = words = tokens = 0
    for original in originals:
        plain = wikitext.detokenize(original) if detokenizer == "wikitext" else original
        ids = tokenizer.encode(plain, add_special_tokens=False).ids
        documents.append(tuple(ids))
        num_bytes += len(original.encode())
        words += len(re.split(r"\s+", original))  # empty ones at the ends count, as in the harness
        tokens += len(ids)
        if most is not None and tokens >= most:
            break
    return tuple(documents), num_bytes, words


def _cut(content: str, tokenizer: Tokenizer, most: int | None) -> str:
    """The beginning of ``content`` with ``most`` tokens."""
    if most is None:
        return content
    content = content[: _CHARACTERS * most]
    encoding = tokenizer.encode(content, add_special_tokens=False)
    return content if len(encoding.ids) <= most else content[: encoding.offsets[most - 1][1]]


def _exp(value: float) -> float:
    return math.exp(min(value, 700.0))
