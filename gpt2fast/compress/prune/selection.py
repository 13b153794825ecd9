"""Which units stay, by importance: so many in every layer, or wherever they matter most.

Shapes: U units of a layer.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from gpt2fast.errors import OptionError

Kept = list[Tensor]  # of each layer: indices of the units that stay, ascending


def keep_uniform(importances: Sequence[Tensor], keep: float, multiple: int) -> Kept:
    """The same fraction ``keep`` of every layer, in multiples of ``multiple``, at least one.

    Raises OptionError for layers of different widths, of which that makes no uniform ones.
    """
    if len({len(values) for values in importances}) > 1:
        raise OptionError(
            "uniform = true: the layers have different widths already, and the same fraction of "
            "each leaves them different; prune uniformly first"
        )
    wanted = [int(keep * len(values) + 1e-9) for values in importances]
    counts = [count if keep == 1 else max(1, count // multiple) * multiple for count in wanted]
    return [_top(values, count) for values, count in zip(importances, counts, strict=True)]


def keep_global(importances: Sequence[Tensor], keep: float, multiple: int) -> Kept:
    """The fraction ``keep`` of all units, by one ranking of them all; a layer keeps a multiple of
    ``multiple``, at least one.

    Units are taken in bunches of ``multiple`` of one layer, the most important first.
    """
    counts = [min(multiple, len(values)) for values in importances]
    left = int(keep * sum(map(len, importances)) + 1e-9) - sum(counts)
    for _, layer, size in sorted(_bunches(importances, multiple), key=lambda bunch: -bunch[0]):
        if size > left:
            break
        counts[layer] += size
        left -= size
    return [_top(values, count) for values, count in zip(importances, counts, strict=True)]


def _bunches(importances: Sequence[Tensor], multiple: int) -> list[tuple[float, int, int]]:
    """Mean importance, layer and size of every bunch but the first of each layer. Within a layer
    they come out of a stable sort in descending order of importance, as they are made."""
    found: list[tuple[float, int, int]] = []
    for layer, values in enumerate(importances):
        ordered = values.sort(descending=True).values
        bunches = ordered.split(multiple)[1:]
        found += [(float(bunch.mean()), layer, len(bunch)) for bunch in bunches]
    return found


def _top(values: Tensor, count: int) -> Tensor:
    return values.argsort(descending=True, stable=True)[:count].sort().values
