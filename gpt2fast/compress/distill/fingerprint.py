"""What a network or an array is, in a few letters: a resumed run must be given the same."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn


def of_network(network: nn.Module) -> str:
    """SHA-256 of names, shapes and values."""
    return of_tensors(network.state_dict())


def of_tensors(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of names, shapes and values."""
    return of_arrays({name: t.detach().cpu().float().numpy() for name, t in tensors.items()})


def of_arrays(arrays: Mapping[str, NDArray[np.generic]]) -> str:
    """SHA-256 of names, types, shapes and values."""
    digest = hashlib.sha256()
    for name, array in arrays.items():
        digest.update(f"{name} {array.dtype.str} {array.shape}\0".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
