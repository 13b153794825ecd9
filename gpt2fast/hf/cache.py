"""transformers' cache over the pool's blocks: beams and cut texts move no keys."""

from __future__ import annotations

import inspect
import weakref
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from transformers import cache_utils

from gpt2fast.errors import UnsupportedError
from gpt2fast.hf.native import Native
from gpt2fast.hf.plan import Plan

# What crop's argument counts: since 5.23 what goes, before what stays (negative: what goes).
_CROPS_TO_LENGTH = "max_length" in inspect.signature(cache_utils.Cache.crop).parameters


class NativeCache(cache_utils.Cache):
    """Keys and values of a batch, on the runner of one accelerated model.

    Sequences share blocks after ``reorder_cache``, ``batch_repeat_interleave`` and
    ``batch_select_indices``; a block is copied where two of them go on differently.
    """

    def __init__(self, native: Native) -> None:
        super().__init__(layers=[])
        self.native = native
        self.past = 0  # columns
        self.starts = np.zeros(0, np.int64)  # (B,): of the first tokens
        self.handles: list[int] = []
        self._finalizer = weakref.finalize(self, _free, native, self.handles)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """(B,): tokens that are cached."""
        return np.array([self.native.pool.length(handle) for handle in self.handles], np.int64)

    def open(self, batch: int) -> None:
        """Make room for ``batch`` sequences, of which there are none yet."""
        with self.native.lock:
            nothing = np.zeros(1, np.int32)
            self.handles += [self.native.pool.create(nothing)[0] for _ in range(batch)]
        self.starts = np.zeros(batch, np.int64)

    def advance(self, plan: Plan, new: int) -> None:
        """Count ``new`` columns whose tokens were run."""
        began = self.lengths == plan.counts
        self.starts = np.where(began, self.past + plan.first, self.starts)
        self.past += new

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Columns that are cached, padding included."""
        return self.past

    def get_max_cache_shape(self, layer_idx: int = 0) -> int:
        """There is no maximum."""
        return -1

    def get_mask_sizes(self, query: Any, layer_idx: int = 0) -> tuple[int, int]:
        """Columns of keys, and the first of them."""
        return self.past + (query if isinstance(query, int) else int(query.shape[0])), 0

    @property
    def is_compileable(self) -> bool:
        """No graph of torch has a part in it."""
        return False

    @property
    def is_croppable(self) -> bool:
        """Texts can be cut."""
        return True

    @property
    def is_initialized(self) -> bool:
        """Whether it has sequences."""
        return bool(self.handles)

    def __len__(self) -> int:
        return self.native.config.n_layer

    def update(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Raises: the network in torch has no part in this cache."""
        raise UnsupportedError(
            "this cache holds keys and values of gpt2fast's runner, which transformers' own layers "
            "cannot go on from; begin again without past_key_values"
        )

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Sequence i goes on as sequence ``beam_idx[i]`` (B,)."""
        self.batch_select_indices(beam_idx)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep the sequences ``indices``, in that order."""
        self._take(np.asarray(indices.cpu()).tolist())

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Each sequence ``repeats`` times, one behind the other."""
        self._take([row for row in range(len(self.handles)) for _ in range(repeats)])

    def crop(self, count: int) -> None:
        """Cut columns at the end, by the convention of the transformers that is installed."""
        if _CROPS_TO_LENGTH:
            left = self.past + count if count < 0 else min(count, self.past)
        else:
            left = self.past - abs(count)
        lengths = np.clip(left - self.starts, 0, self.lengths)
        with self.native.lock:
            for handle, length in zip(self.handles, lengths.tolist(), strict=True):
                self.native.pool.truncate(handle, length)
        self.past = max(left, 0)

    def reset(self) -> None:
        """Forget all sequences."""
        _free(self.native, self.handles)
        self.past, self.starts = 0, np.zeros(0, np.int64)

    def _take(self, rows: list[int]) -> None:
        with self.native.lock:
            taken = [self.native.pool.fork(self.handles[row]) for row in rows]
            _free(self.native, self.handles)
            self.handles += taken
        self.starts = self.starts[rows]


def _free(native: Native, handles: list[int]) -> None:
    with native.lock:
        while handles:
            native.pool.free(handles.pop())
