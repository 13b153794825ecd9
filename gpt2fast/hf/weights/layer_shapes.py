"""Layers of different shapes, as structured pruning leaves them, in transformers' network."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from transformers.pytorch_utils import Conv1D

from gpt2fast.config import LayerShape, ModelConfig

_PERMISSION = "allow_global_per_layer_attribute_access"


@contextmanager
def as_if_uniform(config: Any) -> Iterator[None]:
    """Let transformers 5 build its network from a configuration whose layers differ, which it
    refuses to look at otherwise; ``give_shapes`` mends what it builds."""
    before = vars(config).get(_PERMISSION)
    vars(config)[_PERMISSION] = True
    try:
        yield
    finally:
        vars(config).pop(_PERMISSION, None)
        if before is not None:
            vars(config)[_PERMISSION] = before


def give_shapes(network: Any, config: ModelConfig) -> None:
    """Replace the matrices of those layers of ``network``, a ``GPT2Model``, that ``config`` gives
    fewer heads or neurons; what is in them is still to be loaded."""
    for block, shape in zip(network.h, config.layers, strict=False):
        if shape != LayerShape(config.n_head, config.n_inner):
            _give_shape(block, config.n_embd, config.head_size, shape)


def _give_shape(block: Any, width: int, head_size: int, shape: LayerShape) -> None:
    attended = shape.n_head * head_size
    attention, mlp = block.attn, block.mlp
    attention.num_heads, attention.split_size = shape.n_head, attended
    attention.c_attn, attention.c_proj = Conv1D(3 * attended, width), Conv1D(width, attended)
    mlp.c_fc, mlp.c_proj = Conv1D(shape.n_inner, width), Conv1D(width, shape.n_inner)
