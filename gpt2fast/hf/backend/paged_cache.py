"""transformers' cache interface over the runner's paged KV cache: reordering copies no keys."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from torch import Tensor
from transformers import cache_utils

from gpt2fast._C import SequenceGroup
from gpt2fast.errors import UnsupportedError
from gpt2fast.hf.backend.backend import Backend, FloatArray
from gpt2fast.hf.backend.cache_layers import NativeLayer
from gpt2fast.hf.backend.unpad import TokenIds, Unpadding, range_mask
from gpt2fast.hf.compat import cache_argument


def _delegate_in_torch(method: Callable[..., Any]) -> Callable[..., Any]:
    """``method`` while the runner holds the cache; ``Cache``'s method of that name once
    transformers' layers hold it."""
    original = getattr(cache_utils.Cache, method.__name__)

    @wraps(method)
    def delegating(self: NativeCache, *args: Any, **kwargs: Any) -> Any:
        return (original if self.in_torch else method)(self, *args, **kwargs)

    return delegating


class NativeCache(cache_utils.Cache):
    """Keys and values of a batch, in the paged cache of one accelerated model's runner.

    Sequences share blocks after ``reorder_cache``, ``batch_repeat_interleave`` and
    ``batch_select_indices``; blocks are copied on write. When a call must run in torch,
    ``move_to_torch`` converts the cache to transformers' layers for good.
    """

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.in_torch = False
        super().__init__(layers=[])
        self.past_length = 0  # columns
        self._columns: list[TokenIds] = []  # chunks (B, columns) of ``ids``
        self.starts = np.zeros(0, np.int64)  # (B,): column of each sequence's first token
        self._sequences = SequenceGroup(backend.pool, 0)  # freed with this object

    @property
    def handles(self) -> list[int]:
        """(B,): the sequences' handles in the block pool."""
        return self._sequences.ids

    @property
    def layers(self) -> list[Any]:
        """Keys and values by layer, copied from the runner on access."""
        if self.in_torch:
            return self._layers
        return [NativeLayer(self, index) for index in range(self.backend.config.n_layer)]

    @layers.setter
    def layers(self, layers: list[Any]) -> None:
        self._layers = layers

    @property
    def ids(self) -> TokenIds:
        """(B, past_length): the token ids; arbitrary at padding."""
        if len(self._columns) != 1:
            empty = np.zeros((len(self.handles), 0), np.int64)
            self._columns = [np.concatenate([empty, *self._columns], axis=1)]
        return self._columns[0]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """(B,): cached tokens, without padding."""
        return np.array([self.backend.pool.length(handle) for handle in self.handles], np.int64)

    def add_sequences(self, batch: int) -> None:
        """Make ``batch`` empty sequences, in a cache that has none."""
        self._sequences = SequenceGroup(self.backend.pool, batch)
        self.starts, self._columns = np.zeros(batch, np.int64), []

    def run(self, ids: TokenIds, unpadding: Unpadding, last: int, *, logits: bool) -> FloatArray:
        """``Backend.run`` on the new columns ``ids`` (B, S), which are then cached."""
        results = self.backend.run(self.handles, ids, unpadding, last, logits=logits)
        began = self.lengths == unpadding.counts
        self.starts = np.where(began, self.past_length + unpadding.first, self.starts)
        self._append_column(ids)
        return results

    def decode(self, tokens: NDArray[np.int64], select: Callable[[FloatArray], Any]) -> Any:
        """``Backend.decode`` on one new column: a token (B,) of each sequence."""
        selected = self.backend.decode(self.handles, tokens, select)
        self._append_column(tokens[:, None])
        return selected

    def _append_column(self, ids: TokenIds) -> None:
        self._columns.append(ids.copy())  # the caller may overwrite its array
        self.past_length += ids.shape[1]

    def move_to_torch(self, network: Any) -> None:
        """Recompute keys and values from the tokens with ``network``, a ``GPT2Model``, in torch,
        and hold them in transformers' layers from now on. The runner's blocks are freed."""
        dynamic = transformers.DynamicCache()
        if self.past_length:
            mask = torch.from_numpy(range_mask(self.starts, self.lengths, self.past_length))
            positions = (mask.long().cumsum(1) - 1).clamp(min=0)
            device = network.wte.weight.device
            with torch.no_grad(), _dropout_off(network):
                transformers.GPT2Model.forward(
                    network, torch.from_numpy(self.ids).to(device), use_cache=True,
                    attention_mask=mask.long().to(device), position_ids=positions.to(device),
                    **{cache_argument(): dynamic},
                )  # fmt: skip
        self.in_torch, self._columns = True, []
        self._sequences = SequenceGroup(self.backend.pool, 0)
        self.layers = dynamic.layers
        self.layer_class_to_replicate = dynamic.layer_class_to_replicate

    def __copy__(self) -> NativeCache:
        return copy.deepcopy(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> NativeCache:
        """A copy that shares blocks until one of the two writes to them."""
        clone = NativeCache(self.backend)
        clone.in_torch, clone.past_length, clone.starts = (
            self.in_torch, self.past_length, self.starts,
        )  # fmt: skip
        clone._columns = [] if self.in_torch else [self.ids]
        clone.layers = copy.deepcopy(self._layers, memo)
        clone.layer_class_to_replicate = self.layer_class_to_replicate
        clone._sequences = self._sequences.fork(list(range(len(self.handles))))
        return clone

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Pickles as a ``DynamicCache`` with keys and values recomputed in torch."""
        clone = copy.deepcopy(self)
        if not self.in_torch:
            network = self.backend.fingerprint.network
            if network is None:
                raise UnsupportedError(
                    "this cache cannot be pickled: the model that it came from is gone"
                )
            clone.move_to_torch(network)
        return rebuild_dynamic_cache, (clone.layers,)

    @_delegate_in_torch
    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Cached columns, padding included."""
        return self.past_length

    def get_max_cache_shape(self, layer_idx: int = 0) -> int:
        """-1: there is no maximum."""
        return -1

    @_delegate_in_torch
    def get_mask_sizes(self, query: Any, layer_idx: int = 0) -> tuple[int, int]:
        """Number of key columns, and the offset of the first."""
        return self.past_length + (query if isinstance(query, int) else int(query.shape[0])), 0

    @property
    def is_compileable(self) -> bool:
        """False: torch.compile cannot trace through the runner."""
        return False

    @property
    def is_croppable(self) -> bool:
        """True: ``crop`` works."""
        return True

    @property
    def is_initialized(self) -> bool:
        """Whether it has sequences."""
        return bool(self.handles) or (self.in_torch and bool(super().is_initialized))

    @_delegate_in_torch
    def __len__(self) -> int:
        return self.backend.config.n_layer

    @_delegate_in_torch
    def update(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Raises UnsupportedError while the runner holds the cache: attention layers in torch
        cannot append to it."""
        raise UnsupportedError(
            "this cache holds keys and values of gpt2fast's runner, and the model it was given to "
            "is not the accelerated one that it came from; begin again without a cache"
        )

    @_delegate_in_torch
    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Sequence i becomes a copy of sequence ``beam_idx[i]`` (B,)."""
        self.batch_select_indices(beam_idx)

    @_delegate_in_torch
    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep the sequences at ``indices``, in that order, or those where a boolean mask (B,) is
        True."""
        rows = np.arange(len(self.handles))[torch.as_tensor(indices).cpu().numpy()]
        self._select_rows(rows.tolist())

    @_delegate_in_torch
    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat each sequence ``repeats`` times, copies next to each other."""
        self._select_rows([row for row in range(len(self.handles)) for _ in range(repeats)])

    @_delegate_in_torch
    def crop(self, count: int) -> None:
        """Cut columns at the end; ``count`` means what it means in the installed transformers."""
        length = _cropped_length(self.past_length, count)
        lengths = np.clip(length - self.starts, 0, self.lengths)
        with self.backend.lock.rlock:
            for handle, kept in zip(self.handles, lengths.tolist(), strict=True):
                self.backend.pool.truncate(handle, kept)
        self.past_length, self._columns = length, [self.ids[:, :length]]

    @_delegate_in_torch
    def reset(self) -> None:
        """Remove all sequences."""
        self._sequences = SequenceGroup(self.backend.pool, 0)
        self.past_length, self.starts, self._columns = 0, np.zeros(0, np.int64), []

    def _select_rows(self, rows: list[int]) -> None:
        ids = self.ids[rows]
        self._sequences = self._sequences.fork(rows)
        self.starts, self._columns = self.starts[rows], [ids]


@contextmanager
def _dropout_off(network: Any) -> Iterator[None]:
    """All modules of ``network`` in eval mode: recomputed keys must equal the runner's."""
    training = [each for each in network.modules() if each.training]
    for each in training:
        each.training = False
    try:
        yield
    finally:
        for each in training:
            each.training = True


def rebuild_dynamic_cache(layers: list[Any]) -> transformers.DynamicCache:
    """The ``DynamicCache`` that a pickled ``NativeCache`` becomes."""
    cache = transformers.DynamicCache()
    cache.layers = layers
    return cache


def _cropped_length(length: int, count: int) -> int:
    """The length of a cache of ``length`` columns after ``crop(count)``, found by cropping one of
    transformers' layers: releases differ in the sign convention and in what they refuse."""
    layer, columns = cache_utils.DynamicLayer(), torch.zeros(1, 1, length, 1)
    if length:
        layer.update(columns, columns)
    layer.crop(count)
    return int(layer.get_seq_length())
