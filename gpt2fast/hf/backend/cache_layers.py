"""The runner's keys and values in transformers' layout, copied on access."""

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
    """A read-only view of one layer of a ``NativeCache``.

    ``keys`` and ``values`` are copies, (B, H, columns, D) in the model's dtype and on its device,
    zeros at padding, which the runner does not store. Methods that would change the layer raise
    UnsupportedError: all layers change together, through the cache.
    """

    def __init__(self, cache: NativeCache, index: int) -> None:
        self._cache, self._index = cache, index

    def _read(self, which: int) -> Tensor | None:
        cache, backend = self._cache, self._cache.backend
        if not cache.handles:
            return None
        heads = backend.config.layer_shapes[self._index].n_head
        shape = (len(cache.handles), heads, cache.past_length, backend.config.head_size)
        result = np.zeros(shape, np.float32)
        with backend.lock.rlock:
            for row, handle in enumerate(cache.handles):
                start, length = int(cache.starts[row]), backend.pool.length(handle)
                table = backend.pool.block_table(handle)[: -(-length // BLOCK_SIZE)]
                read = backend.runner.read_cache(self._index, np.asarray(table, np.int32), length)
                result[row, :, start : start + length] = read[which]
        return torch.from_numpy(result).to(self.device, self.dtype)

    @property
    def keys(self) -> Tensor | None:
        """(B, H, columns, D); None if the cache is empty."""
        return self._read(0)

    @property
    def values(self) -> Tensor | None:
        """(B, H, columns, D); None if the cache is empty."""
        return self._read(1)

    @property
    def dtype(self) -> torch.dtype:
        """The model's; float32 if it was garbage collected."""
        network = self._cache.backend.fingerprint.network
        return torch.float32 if network is None else network.dtype

    @property
    def device(self) -> torch.device:
        """The model's; the CPU if it was garbage collected."""
        network = self._cache.backend.fingerprint.network
        return torch.device("cpu") if network is None else network.device

    @property
    def is_initialized(self) -> bool:
        """Whether there are sequences."""
        return bool(self._cache.handles)

    def get_seq_length(self) -> int:
        """Cached columns, padding included."""
        return self._cache.past_length

    def offload(self) -> None:
        """Does nothing: the runner's cache does not move."""

    def prefetch(self) -> None:
        """Does nothing: the runner's cache does not move."""

    def _refuse(self, *_: Any, **__: Any) -> Any:
        raise UnsupportedError(
            "a layer of gpt2fast's cache can be read; to change it, call the cache's own crop, "
            "reorder_cache, batch_select_indices, batch_repeat_interleave or reset"
        )

    update = crop = reset = reorder_cache = _refuse
    batch_repeat_interleave = batch_select_indices = lazy_initialization = _refuse
