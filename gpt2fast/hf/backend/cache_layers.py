"""The runner's keys and values in transformers' layout, read when somebody looks at them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from transformers import cache_utils

from gpt2fast.errors import UnsupportedError
from gpt2fast.runners import BLOCK_SIZE

if TYPE_CHECKING:
    from gpt2fast.hf.backend.paged_cache import NativeCache


class NativeLayer(cache_utils.DynamicLayer):
    """One layer of a ``NativeCache``, to be read.

    ``keys`` and ``values`` are copies, (B, H, columns, D) in the model's dtype and on its device;
    zeros at padding, which the runner does not store. What changes a layer changes the cache, and
    is called on it.
    """

    def __init__(self, cache: NativeCache, index: int) -> None:
        self._cache, self._index = cache, index

    def _read(self, which: int) -> Tensor | None:
        cache, native = self._cache, self._cache.native
        if not cache.handles:
            return None
        heads = native.config.layer_shapes[self._index].n_head
        shape = (len(cache.handles), heads, cache.past, native.config.head_size)
        found = np.zeros(shape, np.float32)
        with native.lock.rlock:
            for row, handle in enumerate(cache.handles):
                start, length = int(cache.starts[row]), native.pool.length(handle)
                table = native.pool.block_table(handle)[: -(-length // BLOCK_SIZE)]
                read = native.runner.read_cache(self._index, np.asarray(table, np.int32), length)
                found[row, :, start : start + length] = read[which]
        return torch.from_numpy(found).to(self.device, self.dtype)

    @property
    def keys(self) -> Tensor | None:
        """(B, H, columns, D); None before there are any."""
        return self._read(0)

    @property
    def values(self) -> Tensor | None:
        """(B, H, columns, D); None before there are any."""
        return self._read(1)

    @property
    def dtype(self) -> torch.dtype:
        """Of the model, or float32 where that is gone."""
        network = self._cache.native.stamp.network
        return torch.float32 if network is None else network.dtype

    @property
    def device(self) -> torch.device:
        """Of the model, or the CPU where that is gone."""
        network = self._cache.native.stamp.network
        return torch.device("cpu") if network is None else network.device

    @property
    def is_initialized(self) -> bool:
        """Whether there are sequences."""
        return bool(self._cache.handles)

    def get_seq_length(self) -> int:
        """Columns that are cached, padding included."""
        return self._cache.past

    def offload(self) -> None:
        """The runner's cache stays where it is."""

    def prefetch(self) -> None:
        """The runner's cache stays where it is."""

    def _refuse(self, *_: Any, **__: Any) -> Any:
        raise UnsupportedError(
            "a layer of gpt2fast's cache can be read; to change it, call the cache's own crop, "
            "reorder_cache, batch_select_indices, batch_repeat_interleave or reset"
        )

    update = crop = reset = reorder_cache = _refuse
    batch_repeat_interleave = batch_select_indices = lazy_initialization = _refuse
