"""Noticing that a network's weights have changed since they were packed."""

from __future__ import annotations

import weakref
from typing import Any

from gpt2fast.hf.packed import weights_of


class Stamp:
    """Where the weights of a ``GPT2Model`` and of the head on it (or None) are, how often they were
    written to, and which adapters of PEFT are at work, when this is made."""

    def __init__(self, network: Any, head: Any) -> None:
        self.has_head = head is not None
        self._modules = [weakref.ref(each) for each in (network, head) if each is not None]
        self._packed = self._now()

    @property
    def is_stale(self) -> bool:
        """Whether something is different now."""
        return self._now() != self._packed

    def _now(self) -> list[tuple[Any, ...]]:
        modules = [each for module in self._modules if (each := module()) is not None]
        weights = [
            (each.data_ptr(), each._version)
            for module in modules
            for each in weights_of(module).values()
        ]
        adapted = [
            (each.merged, each.disable_adapters)
            for module in modules
            for each in module.modules()
            if is_adapted(each)
        ]
        return [*weights, *adapted]


def is_adapted(module: Any) -> bool:
    """Whether PEFT wraps a layer in ``module``."""
    return hasattr(module, "base_layer") and hasattr(module, "merged")


def is_merged(module: Any) -> bool:
    """Whether what PEFT wraps in ``module`` has the weights of the whole."""
    return bool(module.merged) is not bool(module.disable_adapters)
