"""Keys and values in blocks: where a token of a sequence lies in the cache of one layer.

A layer's cache is (blocks, 2, H, BLOCK_TOKENS, D): of a block first the keys of all heads, then the
values. A sequence's token t is in slot t % BLOCK_TOKENS of the block that entry t / BLOCK_TOKENS of
its block table names.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from gpt2fast.errors import OptionError


@triton.jit
def key_offsets(table_ptr, tokens, inside, head, HEADS: tl.constexpr, D: tl.constexpr,
                BLOCK_TOKENS: tl.constexpr):  # fmt: skip
    """Where the keys of ``tokens`` begin, in elements; values lie HEADS * BLOCK_TOKENS * D on."""
    block = tl.load(table_ptr + tokens // BLOCK_TOKENS, mask=inside, other=0).to(tl.int64)
    return ((block * 2 * HEADS + head) * BLOCK_TOKENS + tokens % BLOCK_TOKENS) * D


def check_cache(cache: Tensor, heads: int, head_size: int) -> int:
    """Tokens in a block of ``cache``; raises OptionError where it has another shape."""
    if cache.dim() != 5 or cache.shape[1:3] != (2, heads) or cache.shape[4] != head_size:
        raise OptionError(
            f"a cache of shape {tuple(cache.shape)} does not fit {heads} heads of {head_size}; "
            f"give (blocks, 2, {heads}, block tokens, {head_size})"
        )
    if not cache.is_contiguous():
        raise OptionError("a cache must be contiguous; call contiguous() on it once")
    return int(cache.shape[3])
