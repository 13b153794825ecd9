"""Attention of one new token a sequence over a paged cache, in each number of splits, beside SDPA.

Caches come from memory. Ours stores the new key and value as well; torch's are contiguous and
complete.

    python benchmarks/kernels/triton/attention_decode.py [--match gpt2-xl]
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import paths  # noqa: F401
import sequences
import torch
import torch.nn.functional as F
from gpu.case import Case, Function, main
from sequences import HEAD_SIZE, Paged
from torch import Tensor

from gpt2fast.kernels.triton.attention_decode import SPLITS, SplitWorkspace, attention_decode

MODELS = {"gpt2": 12, "gpt2-xl": 25}  # heads
SEQUENCES = (1, 8, 32, 128)
CONTEXTS = (128, 1000)


def ours(heads: int, splits: int, workspace: SplitWorkspace, inputs: Paged) -> Tensor:
    """(S, C)."""
    where = (inputs.contexts, inputs.tables)
    scale = HEAD_SIZE**-0.5
    return attention_decode(inputs.qkv, inputs.cache, *where, heads, scale, splits, workspace)


def plain(inputs: Paged) -> Tensor:
    """torch's own choice of SDPA, (S, H, 1, D)."""
    return F.scaled_dot_product_attention(inputs.q, inputs.k, inputs.v)


def in_rows(call: Function, inputs: Paged) -> Tensor:
    """(S, H, 1, D) -> (S, C), to be compared."""
    found: Tensor = call(inputs)
    return found.flatten(1)


def reference(inputs: Paged) -> Tensor:
    """In float32."""
    return sequences.attention(inputs.q, inputs.k, inputs.v)


def cases(device: torch.device) -> Iterator[Case]:
    """Few sequences first."""
    for context in CONTEXTS:
        for count in SEQUENCES:
            for model, heads in MODELS.items():
                workspace = SplitWorkspace(count, heads, HEAD_SIZE, max(SPLITS), device)
                read = 2 * 2 * count * context * heads * HEAD_SIZE
                yield Case(
                    case=f"attention_decode {model} {context} cached float16",
                    at=f"x{count}",
                    make=partial(sequences.make, count, context, 1, heads, device),
                    calls={
                        f"gpt2fast splits={splits}": partial(ours, heads, splits, workspace)
                        for splits in SPLITS
                    }
                    | {"torch SDPA": plain},
                    reference=reference,
                    tolerance=5e-3,
                    bytes=read,
                    rotating=read,
                    shaped={"torch SDPA": in_rows},
                )


if __name__ == "__main__":
    raise SystemExit(main(cases, __doc__))
