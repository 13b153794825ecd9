"""The tokens of a batch during generation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_SPARE = 256  # columns allocated ahead; the capacity doubles when they are used up


class TokenBuffer:
    """Token ids (B, T) with spare capacity, so that appending does not copy what is there."""

    def __init__(self, ids: Tensor) -> None:
        self.length = ids.shape[1]
        self._device = ids.device
        self._array = np.empty((len(ids), self.length + _SPARE), np.int64)
        self._array[:, : self.length] = ids.cpu().numpy()

    @property
    def ids(self) -> Tensor:
        """(B, T): a copy."""
        tokens = np.ascontiguousarray(self._array[:, : self.length])
        return torch.from_numpy(tokens).to(self._device)

    @property
    def last(self) -> NDArray[np.int64]:
        """(B,): the last token of each sequence, a copy."""
        last: NDArray[np.int64] = self._array[:, self.length - 1].copy()
        return last

    @contextmanager
    def writable_ids(self) -> Iterator[Tensor]:
        """``ids`` for processors and criteria. What they write into it is kept, as in transformers'
        loop."""
        ids = self.ids
        yield ids
        self._array[:, : self.length] = ids.cpu().numpy()

    def append(self, tokens: NDArray[np.int64]) -> None:
        """One token (B,) to each sequence."""
        if self.length == self._array.shape[1]:
            self._array = np.concatenate([self._array, np.empty_like(self._array)], axis=1)
        self._array[:, self.length] = tokens
        self.length += 1
