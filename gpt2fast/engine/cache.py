"""What the engine asks of the books of the KV cache, and how large a cache should be."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from gpt2fast.config import ModelConfig
from gpt2fast.errors import OptionError

DEFAULT_TOKENS = 8192
MEMORY_FRACTION = 0.25
_GROUP_LIMITS = (
    "/sys/fs/cgroup/memory.max",
    "/sys/fs/cgroup/memory/memory.limit_in_bytes",
)


class BlockPool(Protocol):
    """The methods of ``gpt2fast._C.BlockPool`` that the engine uses."""

    @property
    def num_free(self) -> int: ...

    def create(self, tokens: NDArray[np.int32]) -> tuple[int, int]: ...

    def reserve(self, seq: int, length: int) -> list[tuple[int, int]]: ...

    def commit(self, seq: int, tokens: NDArray[np.int32]) -> None: ...

    def fork(self, seq: int) -> int: ...

    def free(self, seq: int) -> None: ...

    def fill_block_tables(self, seqs: NDArray[np.int64], out: NDArray[np.int32]) -> None: ...

    def stats(self) -> dict[str, int]: ...


def bytes_per_token(config: ModelConfig, bytes_per_value: int = 4) -> int:
    """Keys and values of all layers for one token: 2 * L * C values."""
    return 2 * config.n_layer * config.n_embd * bytes_per_value


def num_blocks(
    config: ModelConfig, block_size: int, kv_cache_tokens: int | None, weight_bytes: int = 0
) -> int:
    """Blocks that hold ``kv_cache_tokens``, or by default what this rule gives.

    Room for two full contexts and at least 8,192 tokens, but not for more than a quarter of the
    machine's (or container's) memory, and never for less than one full context. Raises
    ``OptionError`` if that and ``weight_bytes`` beside it are more than the machine has.
    """
    per_token, memory = bytes_per_token(config), physical_memory() - weight_bytes
    if memory < config.n_positions * per_token:
        raise OptionError(
            f"the weights need {weight_bytes / 2**30:.1f} GiB and one context of KV cache "
            f"{config.n_positions * per_token / 2**30:.1f} GiB, but this machine has "
            f"{(memory + weight_bytes) / 2**30:.1f} GiB; use a smaller model or a larger machine"
        )
    if kv_cache_tokens is None:
        affordable = int(memory * MEMORY_FRACTION) // per_token
        tokens = min(max(2 * config.n_positions, DEFAULT_TOKENS), affordable)
        tokens = max(tokens, config.n_positions)
    else:
        tokens = kv_cache_tokens
    if tokens * per_token > memory:
        raise OptionError(
            f"kv_cache_tokens = {tokens} needs {tokens * per_token / 2**30:.1f} GiB for the KV "
            f"cache ({per_token} bytes a token), but this machine has {memory / 2**30:.1f} GiB "
            f"beside the weights; give at most {memory // per_token}"
        )
    return -(-tokens // block_size)


def physical_memory() -> int:
    """Bytes of memory this process may use: the machine's, or its control group's if less."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limits = [_read_limit(Path(path)) for path in _GROUP_LIMITS]
    return min([machine, *(limit for limit in limits if limit is not None)])


def _read_limit(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None  # no such control group, or "max": no limit
