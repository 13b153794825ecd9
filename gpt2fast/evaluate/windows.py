"""The perplexity protocols: which tokens of a text are predicted, and from how much before them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count

import numpy as np
from numpy.typing import NDArray

from gpt2fast.errors import OptionError

PROTOCOLS = ("stride", "transformers", "lm-eval")
_SCRIPT_STRIDE = 512  # of transformers' script


@dataclass(frozen=True)
class Window:
    """What a model reads at once: all of ``tokens`` but the last. The last ``counted`` are
    predicted, each with the given ``weight`` in the mean. Windows of one ``group`` are resampled
    together."""

    tokens: tuple[int, ...]  # (T,)
    counted: int
    group: int
    weight: float = 1.0


@dataclass(frozen=True)
class Protocol:
    """How a text is cut into windows. ``make_protocol`` checks the numbers.

    * ``stride``: windows of ``context`` tokens, ``stride`` apart; each token but the first of a
      document is predicted once.
    * ``transformers``: the script "Perplexity of fixed-length models" of transformers'
      documentation. The same windows; the mean loss of each counts as often as it has newly
      reached tokens, less one.
    * ``lm-eval``: the rolling log-likelihood of lm-evaluation-harness. Each document for itself,
      after the token ``prefix``; every token is predicted, in blocks of ``context`` tokens that do
      not see the block before but for one token. The last block is filled up from the left.
    """

    name: str
    context: int
    stride: int
    prefix: int | None = None

    def windows(self, documents: Sequence[tuple[int, ...]]) -> Iterator[Window]:
        """The windows of ``documents``, token ids each."""
        if self.name == "lm-eval":
            yield from _rolling(documents, self.context, self.prefix)
        else:
            groups = count()  # windows of all documents are numbered through
            for tokens in documents:
                yield from _sliding(tokens, self, groups)


def make_protocol(
    name: str, positions: int, context: int | None, stride: int | None, prefix: int | None = None
) -> Protocol:
    """A protocol for a model of ``positions`` tokens; None stands for the protocol's own choice.

    Those are: the model's context; a stride of half of it (``stride``) or 512 tokens
    (``transformers``). Raises ``OptionError`` naming what makes no sense.
    """
    if name not in PROTOCOLS:
        raise OptionError(f"protocol = {name!r} is unknown; choose from {', '.join(PROTOCOLS)}")
    context = positions if context is None else context
    if not 2 <= context <= positions:
        raise OptionError(
            f"context = {context} is not in [2, {positions}], the tokens that the model can read"
        )
    if name == "lm-eval":
        if stride not in (None, context):
            raise OptionError(
                f"stride = {stride}: lm-eval's protocol has none, its blocks do not overlap; leave "
                "it out"
            )
        if prefix is None:
            raise OptionError(
                "lm-eval's protocol puts a document behind the begin- or end-of-text token, and "
                "the model's config.json has neither"
            )
        return Protocol(name, context, context, prefix)
    if stride is None:
        stride = context // 2 if name == "stride" else min(_SCRIPT_STRIDE, context)
    # Under transformers' script a window's first token may be left out, as the script does.
    most = context - 1 if name == "stride" else context
    if not 1 <= stride <= most:
        raise OptionError(
            f"stride = {stride} is not in [1, {most}] under a context of {context} tokens; tokens "
            "would be left out"
        )
    return Protocol(name, context, stride)


def _sliding(
    tokens: tuple[int, ...], protocol: Protocol, groups: Iterator[int]
) -> Iterator[Window]:
    done = 1 if protocol.name == "stride" else 0
    for start in range(0, len(tokens), protocol.stride):
        group = next(groups)
        end = min(start + protocol.context, len(tokens))
        new = end - done
        counted = min(new, end - start - 1)  # nothing stands before a window's first token
        if counted > 0:
            weight = 1.0 if protocol.name == "stride" else (new - 1) / counted
            yield Window(tokens[start:end], counted, group, weight)
        done = end
        if end == len(tokens):
            return


def _rolling(
    documents: Sequence[tuple[int, ...]], context: int, prefix: int | None
) -> Iterator[Window]:
    assert prefix is not None
    for number, document in enumerate(documents):
        tokens = (prefix, *document)
        for block, start in enumerate(range(1, len(tokens), context)):
            end = min(start + context, len(tokens))
            first = max(0, end - context - 1) if end - start < context else start - 1
            group = number if len(documents) > 1 else block
            yield Window(tokens[first:end], end - start, group)


def plain_windows(tokens: NDArray[np.integer]) -> list[Window]:
    """Each row of ``tokens`` (N, T) as a window in which all tokens but the first are predicted."""
    return [
        Window(tuple(map(int, row)), len(row) - 1, group)
        for group, row in enumerate(np.atleast_2d(tokens))
    ]


def groups_of(windows: Sequence[Window]) -> NDArray[np.int64]:
    """The group of each predicted token (N,), in the order of ``token_nats``."""
    return np.repeat(
        np.array([window.group for window in windows], dtype=np.int64),
        [window.counted for window in windows],
    )


def weights_of(windows: Sequence[Window]) -> NDArray[np.float64]:
    """The weight of each predicted token (N,), in the order of ``token_nats``."""
    return np.repeat(
        np.array([window.weight for window in windows], dtype=np.float64),
        [window.counted for window in windows],
    )
