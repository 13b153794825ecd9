"""Storing the keys and values of new tokens in the paged cache, beside torch's indexed stores.

python benchmarks/kernels/triton/cache_append.py
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import paths  # noqa: F401
import sequences
import torch
from gpu.case import Case, Function, main
from sequences import HEAD_SIZE, Paged
from torch import Tensor

from gpt2fast.kernels.triton.cache_append import cache_append

MODELS = {"gpt2": 12, "gpt2-xl": 25}  # heads
BATCHES = ((1, 0, 128), (1, 0, 1024), (16, 0, 1024), (4, 100, 37))  # sequences, cached, new


def ours(heads: int, new: int, inputs: Paged) -> Tensor:
    """The cache, written to."""
    where = (inputs.starts, inputs.contexts, inputs.tables)
    cache_append(inputs.qkv, inputs.cache, *where, heads, new)
    return inputs.cache


def plain(context: int, inputs: Paged) -> Tensor:
    """Indexed stores, and the indices of tokens for them."""
    k, v = (each[:, :, context:] for each in (inputs.k, inputs.v))
    sequences.store(inputs.cache, inputs.tables.long(), k, v, context)
    return inputs.cache


def reference(inputs: Paged) -> Tensor:
    """Keys and values (2, S, H, tokens, D) in the order of the tokens; exact."""
    return torch.stack([inputs.k, inputs.v]).float()


def gathered(call: Function, inputs: Paged) -> Tensor:
    """What the cache holds after ``call``, in the order of the tokens."""
    call(inputs)
    blocks = inputs.cache[inputs.tables.long()]  # (S, M, 2, H, 16, D)
    flat = blocks.permute(2, 0, 3, 1, 4, 5).flatten(3, 4)
    return flat[:, :, :, : inputs.k.shape[2]]


def fresh(inputs: Paged, context: int) -> None:
    """Forget what a call before this one stored."""
    new = inputs.k[:, :, context:]
    nothing = torch.full_like(new, float("nan"))
    sequences.store(inputs.cache, inputs.tables.long(), nothing, nothing, context)


def checked(context: int, call: Function, inputs: Paged) -> Tensor:
    """``gathered`` from a cache that has none of the new tokens."""
    fresh(inputs, context)
    return gathered(call, inputs)


def cases(device: torch.device) -> Iterator[Case]:
    """Prompts, and a chunk that begins and ends within blocks."""
    for count, context, new in BATCHES:
        for model, heads in MODELS.items():
            moved = 2 * 2 * 2 * count * new * heads * HEAD_SIZE
            yield Case(
                case=f"cache_append {model} float16",
                at=f"{count}x{new}" + (f"@{context}" if context else ""),
                make=partial(sequences.make, count, context, new, heads, device),
                calls={
                    "gpt2fast": partial(ours, heads, new),
                    "torch": partial(plain, context),
                },
                reference=reference,
                tolerance=1e-6,
                bytes=moved,
                rotating=moved if count * new >= 1024 else 0.0,
                shaped=dict.fromkeys(("gpt2fast", "torch"), partial(checked, context)),
            )


if __name__ == "__main__":
    raise SystemExit(main(cases, __doc__))
