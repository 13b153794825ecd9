"""The perplexity protocol: which tokens of a text are predicted, and from how much before them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpt2fast.checkpoint import open_checkpoint
from gpt2fast.errors import OptionError

_ROWS = 64  # of logits in float64 at a time


@dataclass(frozen=True)
class Text:
    """A tokenized text. ``bytes`` are the UTF-8 bytes of what is predicted: all but token 0."""

    file: str
    tokens: tuple[int, ...]
    bytes: int
    context: int
    stride: int

    def windows(self) -> Iterator[tuple[list[int], int]]:
        """Windows of at most ``context`` tokens, ``stride`` apart, and how many of the last tokens
        of each are counted, so that every token but the first is predicted once."""
        done = 1
        for start in range(0, len(self.tokens), self.stride):
            end = min(start + self.context, len(self.tokens))
            if end > done:
                yield list(self.tokens[start:end]), end - done
            done = max(done, end)

    @property
    def protocol(self) -> dict[str, Any]:
        """What must be known to repeat the measurement."""
        return {
            "file": self.file,
            "tokens": len(self.tokens) - 1,
            "bytes": self.bytes,
            "context": self.context,
            "stride": self.stride,
        }

    def quality(self, nats: float) -> dict[str, float]:
        """Perplexity a token and bits a byte, from the summed negative log-likelihood."""
        count = len(self.tokens) - 1
        return {
            "perplexity": math.exp(min(nats / count, 700)),
            "bits_per_byte": nats / math.log(2) / self.bytes,
        }


def read_text(file: Path, model: Path, context: int, stride: int | None, most: int) -> Text:
    """The first ``most`` + 1 tokens of ``file`` under the tokenizer of ``model``.

    ``stride`` None is half the context. Raises ``OptionError`` naming what is wrong with the file,
    the model's tokenizer or the stride.
    """
    stride = max(1, context // 2) if stride is None else stride
    if stride >= context:  # a window's first token is not predicted within it
        raise OptionError(
            f"--stride {stride} is not below the context of {context} tokens; tokens would be left "
            "out"
        )
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise OptionError(f"--text {file} cannot be read: {reason}") from None
    with open_checkpoint(model) as checkpoint:
        tokenizer = checkpoint.load_tokenizer()
    if tokenizer is None:
        raise OptionError(f"{model} has no tokenizer to read --text with; leave --text out")
    # No text has as many characters a token on average, and a whole book need not be tokenized.
    encoding = tokenizer.encode(text[: 16 * (most + 1)])
    tokens = tuple(encoding.ids[: most + 1])
    if len(tokens) < 2:
        raise OptionError(f"--text {file} has {len(tokens)} tokens; at least 2 are needed")
    first, last = encoding.offsets[0][1], encoding.offsets[len(tokens) - 1][1]
    size = len(text[first:last].encode())
    return Text(str(file), tokens, size, min(context, len(tokens)), stride)


def negative_log_likelihood(logits: NDArray[np.float32], tokens: list[int], counted: int) -> float:
    """Nats of the last ``counted`` of ``tokens`` (T,) under ``logits`` (T, V)."""
    total = 0.0
    first = len(tokens) - counted
    for start in range(first, len(tokens), _ROWS):
        targets = np.asarray(tokens[start : start + _ROWS])
        rows = logits[start - 1 : start - 1 + len(targets)].astype(np.float64)
        rows -= rows.max(axis=1, keepdims=True)
        chosen = rows[np.arange(len(targets)), targets]
        total += float((np.log(np.exp(rows).sum(axis=1)) - chosen).sum())
    return total
