"""Detecting that a network is no longer what the backend packed: other weights, modules or
adapters.

The check runs on each call that begins a text, so it must be cheap: it walks the modules and
compares a few values of each weight. Version counters alone are not enough: fused optimizers and
``.data`` write without incrementing them."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

_SAMPLES = 16  # values of each weight that are compared
_SCALARS = (
    "eps",
    "is_causal",
    "scaling",
    "scale_attn_weights",
    "scale_attn_by_inverse_layer_idx",
)
_NUMPY_DTYPES = (torch.float32, torch.float16, torch.float64, torch.int64, torch.uint8, torch.bool)


class WeightFingerprint:
    """The state of a ``GPT2Model`` and of the head on it (or None) at construction.

    Args:
        network: the ``GPT2Model``.
        head: the head.
        checksums: also keep a sum over the bytes of every weight, for ``checksums_match``.
        values: the ``values`` of an earlier fingerprint, taken before the weights were packed.
    """

    def __init__(
        self, network: Any, head: Any, *, checksums: bool = False, values: list[Any] | None = None
    ) -> None:
        self.has_head = head is not None
        self._roots = [weakref.ref(each) for each in (network, head) if each is not None]
        self._structure, current = self._inspect()
        self.values = current if values is None else values
        self._checksums = self._compute_checksums() if checksums else None

    @property
    def network(self) -> Any:
        """The network; None if it was garbage collected."""
        return self._roots[0]()

    def matches(self, head: Any) -> bool:
        """Whether nothing has changed, and ``head``, unless it is None, is the head of this
        fingerprint."""
        if head is not None and not (self.has_head and self._roots[-1]() is head):
            return False
        return self._inspect() == (self._structure, self.values)

    def checksums_match(self) -> bool:
        """Whether checksums were kept and every weight still has the same one."""
        return self._checksums is not None and self._checksums == self._compute_checksums()

    def _inspect(self) -> tuple[list[Any], list[Any]]:
        """Modules and weight addresses; versions and sampled values of the weights."""
        structure: list[Any] = []
        weights: list[Tensor] = []
        for module in iter_modules(*(root() for root in self._roots)):
            own = module.__dict__
            # Attributes of the instance override the class: a patched forward, another epsilon.
            forwards = (id(module), type(module), type(module).forward, "forward" in own)
            structure.append((*forwards, *map(own.get, _SCALARS)))
            if has_adapter(module):
                structure.append((module.merged, module.disable_adapters))
            weights += _tensors(module)
        structure += [_address(each) for each in weights]
        return structure, [(_version(each), _sample_hash(each)) for each in weights]

    def _compute_checksums(self) -> list[int]:
        modules = iter_modules(*(root() for root in self._roots))
        return [_checksum(each) for module in modules for each in _tensors(module)]


def _tensors(module: Any) -> list[Tensor]:
    tables = (module.__dict__["_parameters"], module.__dict__["_buffers"])
    return [each for table in tables for each in table.values() if each is not None]


def _checksum(weight: Tensor) -> int:
    raw = weight.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy()
    words = raw[: raw.nbytes // 8 * 8].view(np.uint64)
    return int(np.add.reduce(words)) + int(np.add.reduce(raw[words.nbytes :], dtype=np.uint64))


def iter_modules(*roots: Any) -> Iterator[Any]:
    """All modules below ``roots`` (None is skipped), a shared one once for each reference.

    Faster than ``nn.Module.modules``, which builds names and a set of what it has seen."""
    stack = [root for root in roots if root is not None]
    while stack:
        module = stack.pop()
        yield module
        stack += [each for each in module.__dict__["_modules"].values() if each is not None]


def _address(weight: Tensor) -> int:
    return weight.data_ptr() if weight.layout == torch.strided else id(weight)


def _version(weight: Tensor) -> int:
    return 0 if weight.is_inference() else weight._version  # inference tensors have no version


def _sample_hash(weight: Tensor) -> int:
    """A hash of evenly spaced values; 0 for a tensor without storage, as on the "meta" device."""
    plain = weight.detach()
    if plain.device.type == "meta" or plain.layout != torch.strided:
        return 0
    if not (plain.device.type == "cpu" and plain.is_contiguous()):
        plain = plain.reshape(-1)[:: max(plain.numel() // _SAMPLES, 1)].cpu()
    if plain.dtype not in _NUMPY_DTYPES or plain.is_neg() or plain.is_conj():
        plain = plain.resolve_neg().resolve_conj().reshape(-1).view(torch.uint8)
    flat = plain.numpy().reshape(-1)
    return hash(flat[:: max(flat.size // _SAMPLES, 1)].tobytes())


def has_adapter(module: Any) -> bool:
    """Whether ``module`` is a PEFT layer that wraps a base layer."""
    return "base_layer" in module.__dict__["_modules"] and hasattr(module, "merged")


def adapter_is_merged(module: Any) -> bool:
    """Whether the base layer's weight is the effective one: the adapter is merged into it, or not
    merged and disabled."""
    return bool(module.merged) is not bool(module.disable_adapters)
