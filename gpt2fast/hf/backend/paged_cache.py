"""transformers' cache over the pool's blocks: beams and cut texts move no keys."""

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
from gpt2fast.hf.backend.backend import Floats, Native
from gpt2fast.hf.backend.cache_layers import NativeLayer
from gpt2fast.hf.backend.unpad import Ids, Plan, columns
from gpt2fast.hf.compat import cache_argument


def _else_theirs(ours: Callable[..., Any]) -> Callable[..., Any]:
    """``ours`` while the runner has the cache, afterwards transformers' method of that name."""
    theirs = getattr(cache_utils.Cache, ours.__name__)

    @wraps(ours)
    def method(self: NativeCache, *args: Any, **kwargs: Any) -> Any:
        return (theirs if self.in_torch else ours)(self, *args, **kwargs)

    return method


class NativeCache(cache_utils.Cache):
    """Keys and values of a batch, on the runner of one accelerated model.

    Sequences share blocks after ``reorder_cache``, ``batch_repeat_interleave`` and
    ``batch_select_indices``; a block is copied where two of them go on differently. A text that
    goes on in torch takes its cache along (``move_to_torch``).
    """

    def __init__(self, native: Native) -> None:
        self.native = native
        self.in_torch = False
        super().__init__(layers=[])
        self.past = 0  # columns
        self._columns: list[Ids] = []  # (B, some) each
        self.starts = np.zeros(0, np.int64)  # (B,): columns of the first tokens
        self._sequences = SequenceGroup(native.pool, 0)  # that go with it

    @property
    def handles(self) -> list[int]:
        """(B,): its sequences in the pool."""
        return self._sequences.ids

    @property
    def layers(self) -> list[Any]:
        """Keys and values by layer: copies of the runner's, made when they are looked at."""
        if self.in_torch:
            return self._layers
        return [NativeLayer(self, index) for index in range(self.native.config.n_layer)]

    @layers.setter
    def layers(self, layers: list[Any]) -> None:
        self._layers = layers

    @property
    def ids(self) -> Ids:
        """(B, past): the tokens, and any at padding."""
        if len(self._columns) != 1:
            nothing = np.zeros((len(self.handles), 0), np.int64)
            self._columns = [np.concatenate([nothing, *self._columns], axis=1)]
        return self._columns[0]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """(B,): tokens that are cached."""
        return np.array([self.native.pool.length(handle) for handle in self.handles], np.int64)

    def open(self, batch: int) -> None:
        """Make room for ``batch`` sequences, of which there are none yet."""
        self._sequences = SequenceGroup(self.native.pool, batch)
        self.starts, self._columns = np.zeros(batch, np.int64), []

    def run(self, ids: Ids, plan: Plan, last: int, *, logits: bool) -> Floats:
        """What ``Native.run`` returns for the columns ``ids`` (B, S), which are cached then."""
        found = self.native.run(self.handles, ids, plan, last, logits=logits)
        began = self.lengths == plan.counts
        self.starts = np.where(began, self.past + plan.first, self.starts)
        self._advance(ids)
        return found

    def decode(self, tokens: NDArray[np.int64], pick: Callable[[Floats], Any]) -> Any:
        """What ``Native.decode`` returns for one more column, a token (B,) of each text."""
        found = self.native.decode(self.handles, tokens, pick)
        self._advance(tokens[:, None])
        return found

    def _advance(self, ids: Ids) -> None:
        self._columns.append(ids.copy())  # it may be the caller's memory
        self.past += ids.shape[1]

    def move_to_torch(self, network: Any) -> None:
        """Give the cache to transformers' layers: their keys and values, from the tokens, by
        ``network``, a ``GPT2Model``; those of the runner are forgotten."""
        theirs = transformers.DynamicCache()
        if self.past:
            seen = torch.from_numpy(columns(self.starts, self.lengths, self.past))
            positions = (seen.long().cumsum(1) - 1).clamp(min=0)
            device = network.wte.weight.device
            with torch.no_grad(), _evaluating(network):
                transformers.GPT2Model.forward(
                    network, torch.from_numpy(self.ids).to(device), use_cache=True,
                    attention_mask=seen.long().to(device), position_ids=positions.to(device),
                    **{cache_argument(): theirs},
                )  # fmt: skip
        self.in_torch, self._columns = True, []
        self._sequences = SequenceGroup(self.native.pool, 0)
        self.layers = theirs.layers
        self.layer_class_to_replicate = theirs.layer_class_to_replicate

    def __copy__(self) -> NativeCache:
        return copy.deepcopy(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> NativeCache:
        """The same texts, which share their blocks until they go on differently."""
        twin = NativeCache(self.native)
        twin.in_torch, twin.past, twin.starts = self.in_torch, self.past, self.starts
        twin._columns = [] if self.in_torch else [self.ids]
        twin.layers = copy.deepcopy(self._layers, memo)
        twin.layer_class_to_replicate = self.layer_class_to_replicate
        twin._sequences = self._sequences.fork(list(range(len(self.handles))))
        return twin

    def __reduce_ex__(self, protocol: Any) -> Any:
        """As transformers' cache of the same texts: keys and values are computed in torch."""
        twin = copy.deepcopy(self)
        if not self.in_torch:
            network = self.native.stamp.network
            if network is None:
                raise UnsupportedError(
                    "this cache cannot be pickled: the model that it came from is gone"
                )
            twin.move_to_torch(network)
        return _with_layers, (twin.layers,)

    @_else_theirs
    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Columns that are cached, padding included."""
        return self.past

    def get_max_cache_shape(self, layer_idx: int = 0) -> int:
        """There is no maximum."""
        return -1

    @_else_theirs
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
        return bool(self.handles) or (self.in_torch and bool(super().is_initialized))

    @_else_theirs
    def __len__(self) -> int:
        return self.native.config.n_layer

    @_else_theirs
    def update(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Raises while the runner has the cache: it is not that of a network in torch."""
        raise UnsupportedError(
            "this cache holds keys and values of gpt2fast's runner, and the model it was given to "
            "is not the accelerated one that it came from; begin again without a cache"
        )

    @_else_theirs
    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Sequence i goes on as sequence ``beam_idx[i]`` (B,)."""
        self.batch_select_indices(beam_idx)

    @_else_theirs
    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep the sequences ``indices``, in that order; or those that a mask (B,) names."""
        self._take(np.arange(len(self.handles))[torch.as_tensor(indices).cpu().numpy()].tolist())

    @_else_theirs
    def batch_repeat_interleave(self, repeats: int) -> None:
        """Each sequence ``repeats`` times, one behind the other."""
        self._take([row for row in range(len(self.handles)) for _ in range(repeats)])

    @_else_theirs
    def crop(self, count: int) -> None:
        """Cut columns at the end, by the convention of the transformers that is installed."""
        left = _length_after_crop(self.past, count)
        lengths = np.clip(left - self.starts, 0, self.lengths)
        with self.native.lock.rlock:
            for handle, length in zip(self.handles, lengths.tolist(), strict=True):
                self.native.pool.truncate(handle, length)
        self.past, self._columns = left, [self.ids[:, :left]]

    @_else_theirs
    def reset(self) -> None:
        """Forget all sequences."""
        self._sequences = SequenceGroup(self.native.pool, 0)
        self.past, self.starts, self._columns = 0, np.zeros(0, np.int64), []

    def _take(self, rows: list[int]) -> None:
        ids = self.ids[rows]
        self._sequences = self._sequences.fork(rows)
        self.starts, self._columns = self.starts[rows], [ids]


@contextmanager
def _evaluating(network: Any) -> Iterator[None]:
    """Without dropout: keys that are computed again are those that were."""
    training = [each for each in network.modules() if each.training]
    for each in training:
        each.training = False
    try:
        yield
    finally:
        for each in training:
            each.training = True


def _with_layers(layers: list[Any]) -> transformers.DynamicCache:
    cache = transformers.DynamicCache()
    cache.layers = layers
    return cache


def _length_after_crop(length: int, count: int) -> int:
    """What is left of a cache of ``length`` columns: transformers' versions differ in what they
    count, and in what they refuse."""
    layer, columns = cache_utils.DynamicLayer(), torch.zeros(1, 1, length, 1)
    if length:
        layer.update(columns, columns)
    layer.crop(count)
    return int(layer.get_seq_length())
