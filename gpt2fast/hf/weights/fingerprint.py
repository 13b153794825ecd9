"""Noticing that a network is not what was packed: its weights, its modules, what hangs on them.

A look at each call that begins a text has to be cheap: a walk over the modules, and some values of
each weight, because optimizers and ``.data`` write to them without leaving a trace.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

_SAMPLES = 16  # values of a weight that are looked at
_NUMBERS = (
    "eps",
    "is_causal",
    "scaling",
    "scale_attn_weights",
    "scale_attn_by_inverse_layer_idx",
)
_OF_NUMPY = (torch.float32, torch.float16, torch.float64, torch.int64, torch.uint8, torch.bool)
_RECORDERS = "transformers.utils.output_capturing"


class Stamp:
    """A ``GPT2Model`` and the head on it (or None) as they are when this is made.

    Args:
        network: the network.
        head: the head.
        sums: keeps a sum of all weights, too, which ``same_sums`` compares.
        values: of an earlier stamp, which the weights had when they were packed.
    """

    def __init__(
        self, network: Any, head: Any, *, sums: bool = False, values: list[Any] | None = None
    ) -> None:
        self.has_head = head is not None
        self._roots = [weakref.ref(each) for each in (network, head) if each is not None]
        self._places, found = self._look()
        self.values = found if values is None else values
        self._sums = self._sum() if sums else None

    @property
    def network(self) -> Any:
        """The network; None where it is gone."""
        return self._roots[0]()

    def fits(self, head: Any) -> bool:
        """Whether this is of a network with ``head`` on it, where there is one, and nothing is
        different now."""
        if head is not None and not (self.has_head and self._roots[-1]() is head):
            return False
        return self._look() == (self._places, self.values)

    def same_sums(self) -> bool:
        """Whether sums were kept, and are the same now."""
        return self._sums is not None and self._sums == self._sum()

    def _look(self) -> tuple[list[Any], list[Any]]:
        """Modules and addresses; what was written."""
        places: list[Any] = []
        weights: list[Tensor] = []
        for module in walk(*(root() for root in self._roots)):
            own = module.__dict__
            # What is the module's own and not its class's: another forward, another epsilon.
            forwards = (id(module), type(module), type(module).forward, "forward" in own)
            places.append((*forwards, *map(own.get, _NUMBERS)))
            if is_adapted(module):
                places.append((module.merged, module.disable_adapters))
            weights += _tensors(module)
        places += [_address(each) for each in weights]
        return places, [(_version(each), _some_values(each)) for each in weights]

    def _sum(self) -> list[int]:
        modules = walk(*(root() for root in self._roots))
        return [_sum_of(each) for module in modules for each in _tensors(module)]


def _tensors(module: Any) -> list[Tensor]:
    held = (module.__dict__["_parameters"], module.__dict__["_buffers"])
    return [each for some in held for each in some.values() if each is not None]


def _sum_of(weight: Tensor) -> int:
    raw = weight.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy()
    whole = raw[: raw.nbytes // 8 * 8].view(np.uint64)
    return int(np.add.reduce(whole)) + int(np.add.reduce(raw[whole.nbytes :], dtype=np.uint64))


def walk(*roots: Any) -> Iterator[Any]:
    """The modules of ``roots`` that are there, each as often as it is found."""
    left = [root for root in roots if root is not None]
    while left:
        module = left.pop()
        yield module
        left += [each for each in module.__dict__["_modules"].values() if each is not None]


def _address(weight: Tensor) -> int:
    return weight.data_ptr() if weight.layout == torch.strided else id(weight)


def _version(weight: Tensor) -> int:
    return 0 if weight.is_inference() else weight._version  # those made in inference mode have none


def _some_values(weight: Tensor) -> int:
    """A number that changes with some of the values; 0 for a tensor without values of its own, as
    on the device "meta"."""
    plain = weight.detach()
    if plain.device.type == "meta" or plain.layout != torch.strided:
        return 0
    if not (plain.device.type == "cpu" and plain.is_contiguous()):
        plain = plain.reshape(-1)[:: max(plain.numel() // _SAMPLES, 1)].cpu()
    if plain.dtype not in _OF_NUMPY or plain.is_neg() or plain.is_conj():
        plain = plain.resolve_neg().resolve_conj().reshape(-1).view(torch.uint8)
    flat = plain.numpy().reshape(-1)
    return hash(flat[:: max(flat.size // _SAMPLES, 1)].tobytes())


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
