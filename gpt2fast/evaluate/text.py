"""Text files as token ids, with everything that must be known to measure on it again."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gpt2fast.errors import OptionError
from gpt2fast.evaluate import wikitext
from gpt2fast.evaluate.windows import Protocol, Window, groups_of, weights_of
from gpt2fast.text_files import Paths, TextFile, digest, listed, read_text_files

if TYPE_CHECKING:
    from tokenizers import Tokenizer

DETOKENIZERS = ("none", "wikitext", "wikitext-rows")
_CHARACTERS = 16  # no text has as many a token on average


@dataclass(frozen=True)
class Text:
    """A tokenized text under a protocol; each file is at least one document.

    ``bytes`` are the UTF-8 bytes of what is predicted, ``words`` what white space separates; under
    lm-eval's protocol both are those of the files before they were detokenized.
    """

    file: str  # or files, as they were given
    files: int  # how many
    sha256: str  # of all of them, one after the other in the order of their names
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
            "files": self.files,
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
        # The first token of a document is never predicted, unless another one is put before it.
        unpredicted = 0 if self.protocol.name == "lm-eval" else len(self.documents)
        nats = nats_per_token * (sum(map(len, self.documents)) - unpredicted)
        found = {
            "perplexity": _exp(nats_per_token),
            "bits_per_byte": nats / math.log(2) / self.bytes,
        }
        if self.protocol.name == "lm-eval":
            found["word_perplexity"] = _exp(nats / self.words)
            found["byte_perplexity"] = _exp(nats / self.bytes)
        return found


def read_text(
    paths: Paths,
    tokenizer: Tokenizer,
    protocol: Protocol,
    *,
    detokenizer: str = "none",
    max_tokens: int | None = None,
) -> Text:
    """The files that ``paths`` (files, directories, globs) lead to under ``tokenizer``, or the
    beginning of them.

    Of ``max_tokens`` predicted tokens at most; under lm-eval's protocol with the wikitext
    detokenizer, whole articles until there are as many. Raises ``OptionError`` naming what is wrong
    with a file.
    """
    if detokenizer not in DETOKENIZERS:
        raise OptionError(
            f"detokenizer = {detokenizer!r} is unknown; choose from {', '.join(DETOKENIZERS)}"
        )
    if max_tokens is not None and max_tokens < 1:
        raise OptionError(f"max_tokens = {max_tokens}: at least 1 is needed")
    files = read_text_files(paths)
    make = _separately if protocol.name == "lm-eval" else _as_one
    parts = _joined(files, make, tokenizer, detokenizer, max_tokens)
    name = ", ".join(listed(paths))
    text = Text(name, len(files), digest(files), detokenizer, *parts, protocol)
    if text.num_tokens < 1:
        least = 1 if protocol.name == "lm-eval" else 2
        count = sum(map(len, text.documents))
        raise OptionError(f"{name} has {count} tokens; at least {least} are needed; give more text")
    if text.bytes < 1:  # tokens of one character, whose bytes count at its last one
        raise OptionError(f"{name} is a single character; give more text")
    return text


_Parts = tuple[tuple[tuple[int, ...], ...], int, int]  # documents, bytes, words
_Make = Callable[[str, "Tokenizer", str, int | None], _Parts]


def _joined(
    files: Sequence[TextFile],
    make: _Make,
    tokenizer: Tokenizer,
    detokenizer: str,
    most: int | None,
) -> _Parts:
    """The parts of all files, until ``most`` tokens are predicted."""
    unpredicted = 1 if make is _as_one else 0  # tokens of each document
    documents: list[tuple[int, ...]] = []
    num_bytes = words = tokens = 0
    for file in files:
        left = None if most is None else most - tokens
        if left is not None and left < 1:
            break
        found, more_bytes, more_words = make(file.text, tokenizer, detokenizer, left)
        documents += found
        num_bytes, words = num_bytes + more_bytes, words + more_words
        tokens += sum(len(document) - unpredicted for document in found)
    return tuple(documents), num_bytes, words


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
        return ((tuple(encoding.ids),) if encoding.ids else (), 0, 0)
    predicted = content[encoding.offsets[0][1] : encoding.offsets[count - 1][1]]
    return ((tuple(encoding.ids[:count]),), len(predicted.encode()), len(predicted.split()))


def _separately(content: str, tokenizer: Tokenizer, detokenizer: str, most: int | None) -> _Parts:
    if detokenizer == "wikitext":
        originals = wikitext.pages(content)
    elif detokenizer == "none":
        originals = [_cut(content, tokenizer, most)]
    else:
        raise OptionError(
            f"detokenizer = {detokenizer!r} is of transformers' script; lm-eval's takes 'none' "
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
