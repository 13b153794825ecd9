"""How many bytes weights and KV cache take, and how large a cache should be."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpt2fast.checkpoint.exported import Export
from gpt2fast.config import ModelConfig
from gpt2fast.errors import OptionError
from gpt2fast.host import physical_memory
from gpt2fast.quantization.panel_layout import bytes_by_format, matrix_layouts
from gpt2fast.runners.model_format import ModelFormat

if TYPE_CHECKING:
    from gpt2fast.checkpoint import Checkpoint

DEFAULT_TOKENS = 8192
MEMORY_FRACTION = 0.25
_VALUE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "int8": 1}
_SCALE_BYTES = 4  # of int8: one for a token's key in a head, one for its value
_SMALLER = "quantization='int8', 'int4' or 'int3', or kv_cache_dtype='int8'"


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


def estimate_memory(model: Checkpoint | Export, model_format: ModelFormat) -> int:
    """Bytes of this machine's memory that the weights take, beside the cache: 0 where another
    device has its own.

    Raises UnsupportedError for a quantization that the CPU runner does not have, OptionError for an
    override of a matrix that the model does not have.
    """
    if model_format.device != "cpu":
        return 0
    if isinstance(model, Export):
        return model.bytes_held
    layouts = matrix_layouts(model.config, model_format.dtype, model_format.quantization)
    return sum(bytes_by_format(layouts, model.config).values())


def _round_up(count: int, multiple: int) -> int:
    return -(-count // multiple) * multiple
