"""What the engine asks of the books of the KV cache, and how large a cache should be."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from gpt2fast.checkpoint.exported import Export
from gpt2fast.config import ModelConfig
from gpt2fast.engine.options import EngineOptions
from gpt2fast.errors import OptionError
from gpt2fast.host import physical_memory
from gpt2fast.panel_layout import bytes_by_format, matrix_layouts
from gpt2fast.quantization import Quantization
from gpt2fast.runners import kv_format

if TYPE_CHECKING:
    from gpt2fast.checkpoint import Checkpoint

DEFAULT_TOKENS = 8192
MEMORY_FRACTION = 0.25
_VALUE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "int8": 1}
_SCALE_BYTES = 4  # of int8: one for a token's key in a head, one for its value
_SMALLER = "quantization='int8', 'int4' or 'int3', or kv_cache_dtype='int8'"


class BlockPool(Protocol):
    """The methods of ``gpt2fast._C.BlockPool`` that the engine uses."""

    @property
    def num_free(self) -> int: ...

    def create(self, tokens: NDArray[np.int32]) -> tuple[int, int]: ...

    def reserve(self, seq: int, length: int) -> list[tuple[int, int]]: ...

    def commit(self, seq: int, tokens: NDArray[np.int32]) -> None: ...

    def fork(self, seq: int) -> int: ...

    def truncate(self, seq: int, length: int) -> None: ...

    def free(self, seq: int) -> None: ...

    def fill_block_tables(self, seqs: NDArray[np.int64], out: NDArray[np.int32]) -> None: ...

    def stats(self) -> dict[str, int]: ...


def bytes_per_token(config: ModelConfig, kv_cache_dtype: str = "float32") -> int:
    """Bytes of the keys and values of all layers for one token, as the CPU runner stores them.

    ``kv_cache_dtype`` is "float32", "bfloat16", "float16" (torch alone) or "int8". The layout is
    that of ``csrc/kernels/kv_layout.h``: values are padded to 16 a head; int8 pads keys to 8 and
    adds a float32 scale to each of the two.
    """
    size, is_int8 = config.head_size, kv_cache_dtype == "int8"
    keys, values = _round_up(size, 8) if is_int8 else size, _round_up(size, 16)
    head = (keys + values) * _VALUE_BYTES[kv_cache_dtype] + (2 * _SCALE_BYTES if is_int8 else 0)
    # A block of 16 tokens begins at a cache line, so that a token's share is in steps of 4 bytes.
    return sum(shape.n_head for shape in config.layer_shapes) * _round_up(head, 4)


def num_blocks(
    config: ModelConfig,
    block_size: int,
    kv_cache_tokens: int | None,
    weight_bytes: int = 0,
    kv_cache_dtype: str = "float32",
    *,
    is_export: bool = False,
) -> int:
    """Blocks that hold ``kv_cache_tokens``, or by default what this rule gives.

    Room for two full contexts and at least 8,192 tokens, but not for more than a quarter of the
    machine's (or container's) memory, and never for less than one full context. Raises
    ``OptionError`` if that and ``weight_bytes`` beside it are more than the machine has.
    """
    per_token, memory = bytes_per_token(config, kv_cache_dtype), physical_memory() - weight_bytes
    if memory < config.n_positions * per_token:
        raise OptionError(
            f"the weights need {weight_bytes / 2**30:.1f} GiB and one context of KV cache "
            f"{config.n_positions * per_token / 2**30:.1f} GiB, but this machine has "
            f"{(memory + weight_bytes) / 2**30:.1f} GiB; use a smaller model or a larger machine, "
            + ("or an export in int4" if is_export else _SMALLER)
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
            + ("" if is_export else ", or kv_cache_dtype='int8'")
        )
    return -(-tokens // block_size)


def held_on_cpu(
    model: Checkpoint | Export, options: EngineOptions, scheme: Quantization | None
) -> tuple[int, str]:
    """Bytes that the weights take beside the cache, and the format of the cache; ``scheme`` is that
    of the weights. A dtype that a runner does not have is left to the runner to refuse."""
    dtype = options.dtype if options.dtype in ("bfloat16", "float16") else "float32"
    if options.device not in ("auto", "cpu"):  # another device has its own memory
        return 0, dtype
    if isinstance(model, Export):
        return model.bytes_held, dtype
    config, dtype = model.config, "float32" if dtype == "float16" else dtype
    weights = bytes_by_format(matrix_layouts(config, dtype, scheme), config)
    return sum(weights.values()), kv_format(options.kv_cache_dtype, dtype, scheme)


def _round_up(count: int, multiple: int) -> int:
    return -(-count // multiple) * multiple
