"""Documents as one stream of tokens, and which windows of it each step sees."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from gpt2fast.errors import OptionError
from gpt2fast.train.corpus import Document

if TYPE_CHECKING:
    from torch import Tensor

_ENCODE_BATCH = 64


@dataclass(frozen=True, eq=False)
class Batch:
    """Windows of one micro-batch, on the device of the model."""

    rows: Tensor  # (B, context + 1), int64: inputs and shifted targets
    numbers: NDArray[np.int64] | None  # (B,) which windows they are, where those are fixed


class Sampler(Protocol):
    """Which windows each step sees, as a pure function of the step."""

    @property
    def context(self) -> int:
        """Tokens that a window predicts."""

    def batch(self, first: int, count: int) -> NDArray[np.int64]:
        """Windows ``first`` to ``first + count`` since the run began: (count, context + 1)."""

    def numbers(self, first: int, count: int) -> NDArray[np.int64] | None:
        """Which of the fixed windows these are; None where windows shift between epochs."""


def tokenize(
    tokenizer: Tokenizer, documents: Sequence[Document], end_of_text: int | None
) -> NDArray[np.int32]:
    """All documents in one row of token ids (N,), each followed by ``end_of_text``."""
    end = [] if end_of_text is None else [end_of_text]
    parts: list[NDArray[np.int32]] = []
    for start in range(0, len(documents), _ENCODE_BATCH):
        texts = [document.text for document in documents[start : start + _ENCODE_BATCH]]
        encoded = tokenizer.encode_batch(texts, add_special_tokens=False)
        parts += [np.asarray(encoding.ids + end, dtype=np.int32) for encoding in encoded]
    return np.concatenate(parts) if parts else np.empty(0, dtype=np.int32)


@dataclass(frozen=True)
class WindowSampler:
    """Windows of ``context`` + 1 tokens (inputs and shifted targets), a pure function of the step.

    An epoch visits every window once, in an order and from an offset drawn from the seed and the
    epoch's number; a resumed run needs nothing but the step to see the same data.
    """

    tokens: NDArray[np.int32]  # (N,)
    context: int
    seed: int

    def __post_init__(self) -> None:
        if self.windows_per_epoch < 1:
            raise OptionError(
                f"the corpus is too small: {len(self.tokens)} training tokens, but sequences of "
                f"{self.context} need at least {2 * self.context}; give more text or a smaller "
                "--context"
            )

    @property
    def windows_per_epoch(self) -> int:
        """Windows that fit whatever the epoch's offset."""
        return (len(self.tokens) - self.context) // self.context

    def batch(self, first: int, count: int) -> NDArray[np.int64]:
        """Windows ``first`` to ``first + count`` since the run began: (count, context + 1)."""
        rows = np.empty((count, self.context + 1), dtype=np.int64)
        for row, index in enumerate(range(first, first + count)):
            epoch, position = divmod(index, self.windows_per_epoch)
            offset, order = _epoch_order(self.seed, epoch, self.context, self.windows_per_epoch)
            start = offset + order[position] * self.context
            rows[row] = self.tokens[start : start + self.context + 1]
        return rows

    def numbers(self, first: int, count: int) -> None:
        """None: the offset of an epoch shifts its windows."""


@dataclass(frozen=True, eq=False)
class FixedWindows:
    """Windows (N, context + 1) that are the same in each epoch, in an order drawn from the seed and
    the epoch's number: what is computed of a window once can be used again."""

    windows: NDArray[np.int64]  # (N, context + 1)
    seed: int

    def __post_init__(self) -> None:
        if self.windows.shape[0] < 1 or self.windows.shape[1] < 2:
            raise OptionError(f"windows of shape {self.windows.shape} have nothing to predict")

    @staticmethod
    def cut(tokens: NDArray[np.int32], context: int, seed: int) -> FixedWindows:
        """All whole windows of ``tokens`` (N,), side by side. Raises OptionError without any."""
        WindowSampler(tokens, context, seed)
        starts = np.arange((len(tokens) - 1) // context)[:, None] * context
        return FixedWindows(tokens[starts + np.arange(context + 1)].astype(np.int64), seed)

    @property
    def context(self) -> int:
        """Tokens that a window predicts."""
        return int(self.windows.shape[1]) - 1

    def batch(self, first: int, count: int) -> NDArray[np.int64]:
        """Windows ``first`` to ``first + count`` since the run began: (count, context + 1)."""
        return self.windows[self.numbers(first, count)]

    def numbers(self, first: int, count: int) -> NDArray[np.int64]:
        """Which rows of ``windows`` these are."""
        epochs, positions = np.divmod(np.arange(first, first + count), len(self.windows))
        orders = [_epoch_order(self.seed, int(e), 1, len(self.windows))[1] for e in epochs]
        return np.asarray([order[p] for order, p in zip(orders, positions, strict=True)])


@lru_cache(maxsize=2)  # a batch at the border of two epochs needs both
def _epoch_order(
    seed: int, epoch: int, context: int, windows: int
) -> tuple[int, NDArray[np.int64]]:
    generator = np.random.Generator(np.random.Philox(key=[seed, epoch]))
    return int(generator.integers(context)), generator.permutation(windows)


def evaluation_batches(
    tokens: NDArray[np.int32], context: int, batch_size: int
) -> list[NDArray[np.int64]]:
    """Cut ``tokens`` into windows of ``context`` + 1 that overlap by one token, so that every token
    but the first is predicted exactly once: batches (B, context + 1) with B <= ``batch_size``, and
    a shorter window (1, n) at the end where one is left over."""
    count = (len(tokens) - 1) // context
    starts = np.arange(count)[:, None] * context + np.arange(context + 1)
    batches = [
        tokens[starts[first : first + batch_size]].astype(np.int64)
        for first in range(0, count, batch_size)
    ]
    rest = tokens[count * context :].astype(np.int64)
    return [*batches, rest[None]] if len(rest) > 1 else batches
