"""Where keys and values stand between the steps of a graph.

A slot holds one sequence, of at most a whole context. Shapes: N slots, B of them in a step, H
heads of a layer, P tokens of the context, D head size.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from gpt2fast.config import ModelConfig
from gpt2fast.errors import MissingDependencyError, OptionError
from gpt2fast.runners.onnx.session import Session

_MOST_BINDINGS = 64  # that are kept: each names 4 buffers a layer


class Cache(Protocol):
    """Keys and values of all slots."""

    most: int  # slots in one step

    def bind(self, first: int, count: int, context: int, new: int) -> Any:
        """A binding of onnxruntime's for a step of ``new`` tokens in each of ``count`` slots, the
        longest of which holds ``context``; inputs and outputs but the cache's are unset."""
        ...

    def keep(self, binding: Any, first: int) -> None:
        """The step of ``binding`` has run: what it made is what the slots hold."""
        ...

    def copy(self, pairs: NDArray[np.int32]) -> None:
        """Copy slots: (N, 2) of source and destination."""
        ...


def names(config: ModelConfig) -> list[tuple[int, str, str]]:
    """The layer, input and output of each part of the cache."""
    return [
        (layer, f"past_key_values.{layer}.{kind}", f"present.{layer}.{kind}")
        for layer in range(config.n_layer)
        for kind in ("key", "value")
    ]


def empty_cache(config: ModelConfig, element: str, sequences: int) -> dict[str, NDArray[Any]]:
    """By the names of its inputs, a cache of ``sequences`` without tokens: (sequences, H, 0, D)."""
    return {
        past: np.empty((sequences, config.layer_shape(layer).n_head, 0, config.head_size), element)
        for layer, past, _ in names(config)
    }


class SharedCache:
    """One array (N, H, P, D) of keys and one of values a layer; the graph writes into them.

    What is bound stays bound: a step on the same slots needs no word of the cache.
    """

    def __init__(self, session: Session, config: ModelConfig, slots: int) -> None:
        self.most = slots
        self._session, self._names = session, names(config)
        self._lengths = np.zeros(slots, np.int64)  # tokens that may have been written
        self._shapes = [
            (shape.n_head, config.n_positions, config.head_size) for shape in config.layer_shapes
        ]
        make = _zeros_on_cpu if session.device == "cpu" else _zeros_on_cuda
        try:
            self._arrays = [
                make((slots, *self._shapes[layer]), session) for layer, _, _ in self._names
            ]
        except (MemoryError, RuntimeError, AssertionError) as error:  # torch without CUDA asserts
            raise OptionError(
                f"no memory for a cache of {slots} contexts of {config.n_positions} tokens; "
                f"lower kv_cache_tokens ({' '.join(str(error).split())[:200]})"
            ) from None
        self._bindings: dict[tuple[int, int], Any] = {}

    def bind(self, first: int, count: int, context: int, new: int) -> Any:
        """See ``Cache``."""
        self._lengths[first : first + count] = context + new
        if (first, count) not in self._bindings:
            if len(self._bindings) == _MOST_BINDINGS:
                self._bindings.clear()
            self._bindings[first, count] = self._bound(first, count)
        return self._bindings[first, count]

    def keep(self, binding: Any, first: int) -> None:
        """Nothing to do."""

    def copy(self, pairs: NDArray[np.int32]) -> None:
        """See ``Cache``."""
        for source, destination in pairs.tolist():
            length = self._lengths[destination] = self._lengths[source]
            for array in self._arrays:
                array[destination, :, :length] = array[source, :, :length]
        if self._session.device != "cpu":
            _wait_for_torch()

    def _bound(self, first: int, count: int) -> Any:
        session = self._session
        binding = session.run_on.io_binding()
        for (layer, past, present), array in zip(self._names, self._arrays, strict=True):
            where = (
                *(session.device, session.device_index, np.dtype(session.element)),
                (count, *self._shapes[layer]),
                _address(array[first]),
            )
            binding.bind_input(past, *where)
            binding.bind_output(present, *where)
        return binding


class GrownCache:
    """For a graph whose outputs are its inputs with the new tokens behind them, in other memory."""

    most = 1

    def __init__(self, session: Session, config: ModelConfig, slots: int) -> None:
        self._session, self._names = session, names(config)
        nothing = list(empty_cache(config, session.element, 1).values())
        self._held: list[list[NDArray[Any]]] = [nothing] * slots

    def bind(self, first: int, count: int, context: int, new: int) -> Any:
        """See ``Cache``."""
        binding = self._session.run_on.io_binding()
        for (_, past, present), array in zip(self._names, self._held[first], strict=True):
            binding.bind_cpu_input(past, np.ascontiguousarray(array[:, :, :context]))
            binding.bind_output(present, "cpu")
        return binding

    def keep(self, binding: Any, first: int) -> None:
        """See ``Cache``. Outputs come in the order in which they were bound, logits last."""
        self._held[first] = [value.numpy() for value in binding.get_outputs()[:-1]]

    def copy(self, pairs: NDArray[np.int32]) -> None:
        """See ``Cache``. Nobody writes into what a step has made, so that slots may share it."""
        for source, destination in pairs.tolist():
            self._held[destination] = self._held[source]


def _zeros_on_cpu(shape: tuple[int, ...], session: Session) -> Any:
    return np.zeros(shape, session.element)  # pages are the system's until they are written


def _zeros_on_cuda(shape: tuple[int, ...], session: Session) -> Any:
    try:
        import torch
    except ImportError:
        raise MissingDependencyError(
            "an ONNX export on 'cuda' keeps its cache in tensors of PyTorch: pip install "
            "'gpt2fast[torch]'"
        ) from None
    device = f"{session.device}:{session.device_index}"
    made = torch.zeros(shape, dtype=getattr(torch, session.element), device=device)
    _wait_for_torch()
    return made


def _wait_for_torch() -> None:
    """onnxruntime works on a stream of its own, which does not wait for torch's."""
    import torch

    torch.cuda.synchronize()


def _address(array: Any) -> int:
    return int(array.ctypes.data if isinstance(array, np.ndarray) else array.data_ptr())
