"""Causal attention of prompts of 1,024 tokens, heads of 64, beside torch's SDPA by backend.

Ours reads keys and values from the paged cache; torch's are contiguous. Operations are counted
causal: half of a full square.

    python benchmarks/kernels/triton/attention_prefill.py
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
from torch.nn.attention import SDPBackend, sdpa_kernel

from gpt2fast.kernels.triton.attention_prefill import attention_prefill
from gpt2fast.kernels.triton.cache_append import cache_append

TOKENS = 1024
MODELS = {"gpt2": 12, "gpt2-xl": 25}  # heads
BATCHES = (1, 16)  # the larger one fills the chip
BACKENDS = {"flash": SDPBackend.FLASH_ATTENTION, "cudnn": SDPBackend.CUDNN_ATTENTION}


def make(batch: int, heads: int, device: torch.device) -> Paged:
    """Prompts whose keys and values are in the cache."""
    made = sequences.make(batch, 0, TOKENS, heads, device)
    where = (made.starts, made.contexts, made.tables)
    cache_append(made.qkv, made.cache, *where, heads, TOKENS)
    return made


def ours(heads: int, inputs: Paged) -> Tensor:
    """(T, C)."""
    where = (inputs.starts, inputs.contexts, inputs.tables)
    return attention_prefill(inputs.qkv, inputs.cache, *where, heads, HEAD_SIZE**-0.5, TOKENS)


def fused(inputs: Paged) -> Tensor:
    """torch's own choice, (B, H, T, D)."""
    return F.scaled_dot_product_attention(inputs.q, inputs.k, inputs.v, is_causal=True)


def forced(backend: SDPBackend, inputs: Paged) -> Tensor:
    """One of torch's backends, (B, H, T, D)."""
    with sdpa_kernel([backend]):
        return fused(inputs)


def in_rows(call: Function, inputs: Paged) -> Tensor:
    """(B, H, T, D) -> (T, C), to be compared."""
    found: Tensor = call(inputs)
    return found.transpose(1, 2).flatten(0, 1).flatten(1)


def reference(inputs: Paged) -> Tensor:
    """In float32."""
    return sequences.attention(inputs.q, inputs.k, inputs.v)


def cases(device: torch.device) -> Iterator[Case]:
    """One prompt, then sixteen."""
    for batch in BATCHES:
        for model, heads in MODELS.items():
            width = heads * HEAD_SIZE
            rivals = {"torch SDPA": fused}
            rivals |= {f"torch SDPA {n}": partial(forced, b) for n, b in BACKENDS.items()}
            yield Case(
                case=f"attention_prefill {model} float16",
                at=f"{batch}x{TOKENS}",
                make=partial(make, batch, heads, device),
                calls={"gpt2fast": partial(ours, heads)} | rivals,
                reference=reference,
                tolerance=5e-3,
                bytes=2 * 4 * batch * TOKENS * width,
                flops=2 * 2 * TOKENS * TOKENS * width * batch / 2,
                shaped=dict.fromkeys(rivals, in_rows),
            )


if __name__ == "__main__":
    raise SystemExit(main(cases, __doc__))
