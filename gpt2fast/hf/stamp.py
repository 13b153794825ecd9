"""Noticing that a network is not what was packed: its weights, its modules, what hangs on them.

A look at each call that begins a text has to be cheap: a walk over the modules, and some values of
each weight, because optimizers and ``.data`` write to them without leaving a trace.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

_SAMPLES = 16  # values of a weight that are looked at
_RECORDERS = "transformers.utils.output_capturing"
_INTEGERS = {torch.bfloat16: torch.int16}  # that numpy has, for what it has not


class Stamp:
    """A ``GPT2Model`` and the head on it (or None) as they are when this is made."""

    def __init__(self, network: Any, head: Any) -> None:
        self.has_head = head is not None
        self._roots = [weakref.ref(each) for each in (network, head) if each is not None]
        self._seen = self._look()

    def fits(self, head: Any) -> bool:
        """Whether this is of a network with ``head`` on it, where there is one, and nothing is
        different now."""
        if head is not None and not (self.has_head and self._roots[-1]() is head):
            return False
        return self._look() == self._seen

    def _look(self) -> list[Any]:
        seen: list[Any] = []
        weights: list[Tensor] = []
        for module in walk(*(root() for root in self._roots)):
            own = module.__dict__
            # What is the module's own and not its class's: another forward, another epsilon.
            seen.append((id(module), type(module), "forward" in own, own.get("eps")))
            if is_adapted(module):
                seen.append((module.merged, module.disable_adapters))
            for held in (own["_parameters"], own["_buffers"]):
                weights += [each for each in held.values() if each is not None]
        seen += [(each.data_ptr(), each._version) for each in weights]
        return [*seen, *map(_some_values, weights)]


def walk(*roots: Any) -> Iterator[Any]:
    """The modules of ``roots`` that are there, each as often as it is found."""
    left = [root for root in roots if root is not None]
    while left:
        module = left.pop()
        yield module
        left += [each for each in module.__dict__["_modules"].values() if each is not None]


def _some_values(weight: Tensor) -> int:
    flat = weight.detach().reshape(-1)
    some = flat[:: max(flat.numel() // _SAMPLES, 1)].cpu()
    return hash(some.view(_INTEGERS.get(some.dtype, some.dtype)).numpy().tobytes())


def obstacle(*roots: Any) -> str | None:
    """Why the modules of ``roots`` have to be called one by one, if there is something."""
    if torch_module._global_forward_hooks or torch_module._global_forward_pre_hooks:
        return "there are hooks of all modules"
    for module in walk(*roots):
        own = module.__dict__
        if own["_forward_hooks"] or own["_forward_pre_hooks"]:
            hooks = (*own["_forward_hooks"].values(), *own["_forward_pre_hooks"].values())
            # transformers leaves its own where it once recorded hidden states.
            if any(getattr(hook, "__module__", "") != _RECORDERS for hook in hooks):
                return "a module has hooks"
        if own["training"] and isinstance(module, nn.Dropout) and module.p > 0:
            return "a dropout layer is in training"
    return None


def is_adapted(module: Any) -> bool:
    """Whether PEFT wraps a layer in ``module``."""
    return "base_layer" in module.__dict__["_modules"] and hasattr(module, "merged")


def is_merged(module: Any) -> bool:
    """Whether what PEFT wraps in ``module`` has the weights of the whole."""
    return bool(module.merged) is not bool(module.disable_adapters)
