"""Layers of different shapes, as structured pruning leaves them, in transformers' network."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from transformers.pytorch_utils import Conv1D

from gpt2fast.config import LayerShape, ModelConfig

_PERMISSION = "allow_global_per_layer_attribute_access"


@contextmanager
def allow_per_layer_config(config: Any) -> Iterator[None]:
    """Let transformers 5 build a network from a config with per-layer values, whose global
    attributes it otherwise refuses to read. All layers are built alike; ``set_layer_shapes``
    corrects them."""
    before = vars(config).get(_PERMISSION)
    vars(config)[_PERMISSION] = True
    try:
        yield
    finally:
        vars(config).pop(_PERMISSION, None)
        if before is not None:
            vars(config)[_PERMISSION] = before


def set_layer_shapes(network: Any, config: ModelConfig) -> None:
    """Replace the matrices of those layers of ``network``, a ``GPT2Model``, that have fewer heads
    or neurons in ``config``. The new ones are not initialized: load their weights afterwards."""
    for block, shape in zip(network.h, config.layers, strict=False):
        if shape != LayerShape(config.n_head, config.n_inner):
            _set_layer_shape(block, config.n_embd, config.head_size, shape)


def _set_layer_shape(block: Any, width: int, head_size: int, shape: LayerShape) -> None:
    inner = shape.n_head * head_size
    attention, mlp = block.attn, block.mlp
    attention.num_heads, attention.split_size = shape.n_head, inner
    attention.c_attn, attention.c_proj = Conv1D(3 * inner, width), Conv1D(width, inner)
    mlp.c_fc, mlp.c_proj = Conv1D(shape.n_inner, width), Conv1D(width, shape.n_inner)
