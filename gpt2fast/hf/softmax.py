"""``torch.softmax`` of scores most of which are -inf: the same bits, without a look at all of them.

A sum's order decides about its last bit. torch adds up lanes of a few columns each, whose number
divides _LANES: stretches of _LANES scores that are all -inf change no lane's sum, and are left out.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_LANES = 64


def softmax(places: NDArray[np.int64], values: Tensor, size: int) -> Tensor:
    """(N,): the softmax of scores (size,) at ``places`` (N,), ascending, where they are ``values``
    and -inf elsewhere."""
    if len(places) and _adds_in_lanes():
        places, size = _closer(places, size)
    return _whole(places, values, size)


def _closer(places: NDArray[np.int64], size: int) -> tuple[NDArray[np.int64], int]:
    """``places`` without the stretches that have none, and the size that is left. The last scores,
    which fill no stretch, stay the last."""
    stretch, rest = places // _LANES, size % _LANES
    new = np.zeros_like(stretch)
    np.cumsum(stretch[1:] != stretch[:-1], out=new[1:])
    whole = int(new[-1]) + (places[-1] < size - rest)
    return new * _LANES + places % _LANES, whole * _LANES + rest


def _whole(places: NDArray[np.int64], values: Tensor, size: int) -> Tensor:
    where = torch.from_numpy(places)
    scores = torch.full((size,), -torch.inf, dtype=values.dtype)
    scores[where] = values
    return torch.softmax(scores, dim=-1)[where]


@cache
def _adds_in_lanes() -> bool:
    """Whether the torch that is installed does, where it is asked."""
    places = np.cumsum(np.arange(1, 200))
    for number in range(40):
        size = int(places[-1]) + 1 + 97 * number
        values = torch.from_numpy(np.cos(places * (number + 1))).float()
        closer, less = _closer(places, size)
        if not torch.equal(_whole(places, values, size), _whole(closer, values, less)):
            return False
    return True
