"""Texts that grow token by token, and where they end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers.generation.stopping_criteria import EosTokenCriteria, MaxLengthCriteria

from gpt2fast.hf.generation.processors import has_own, in_all_threads

_FIRST_ROOM = 256  # tokens; doubled when it is used up


class Texts:
    """Token ids (B, T) in memory with room behind them: a new token moves none of the others."""

    def __init__(self, ids: Tensor) -> None:
        self.length = ids.shape[1]
        self._device = ids.device
        self._room = np.empty((len(ids), self.length + _FIRST_ROOM), np.int64)
        self._room[:, : self.length] = ids.cpu().numpy()

    @property
    def ids(self) -> Tensor:
        """(B, T): nothing in it changes any more."""
        return torch.from_numpy(np.ascontiguousarray(self._room[:, : self.length])).to(self._device)

    @property
    def last(self) -> NDArray[np.int64]:
        """(B,): the last token of each."""
        last: NDArray[np.int64] = self._room[:, self.length - 1].copy()
        return last

    @contextmanager
    def shown(self) -> Iterator[Tensor]:
        """``ids`` for others, who may write into them as into those of transformers."""
        ids = self.ids
        yield ids
        self._room[:, : self.length] = ids.cpu().numpy()

    def append(self, tokens: NDArray[np.int64]) -> None:
        """One token (B,) for each."""
        if self.length == self._room.shape[1]:
            self._room = np.concatenate([self._room, np.empty_like(self._room)], axis=1)
        self._room[:, self.length] = tokens
        self.length += 1


class Ends:
    """transformers' ``criteria``: of those that every call has, what they say without them."""

    def __init__(self, criteria: Any) -> None:
        lengths = [each.max_length for each in criteria if type(each) is MaxLengthCriteria]
        tokens = [each.eos_token_id for each in criteria if type(each) is EosTokenCriteria]
        self.has_tokens = any(hasattr(each, "eos_token_id") for each in criteria)
        self._most = min(lengths, default=np.inf)
        self._tokens = {token for each in tokens for token in each.tolist()}
        self._has_own = has_own(criteria)
        self._others = None if len(lengths) + len(tokens) == len(criteria) else criteria

    def reached(self, texts: Texts, tokens: NDArray[np.int64], scores: Any) -> NDArray[np.bool_]:
        """(B,): the texts that end with their last token, one of ``tokens`` (B,)."""
        if self._others is not None:
            with texts.shown() as ids:
                call = partial(self._others, ids, scores)
                found = (in_all_threads(call) if self._has_own else call()).cpu().numpy()
            # Of numbers transformers' loop looks at the last bit.
            ended: NDArray[np.bool_] = found.astype(np.int64) % 2 == 1
            return ended
        if texts.length >= self._most:
            return np.ones(len(tokens), np.bool_)
        return np.array([token in self._tokens for token in tokens.tolist()])
