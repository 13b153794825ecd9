"""A smaller network that begins as a part of a larger one.

Shapes: C width, H heads, D head size, L layers; those of the student end in ``_s``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from gpt2fast.compress.distill.importance import (
    important_channels,
    important_head_parts,
    important_neurons,
)
from gpt2fast.config import LayerShape, ModelConfig
from gpt2fast.errors import OptionError
from gpt2fast.model.gpt2 import GPT2, Block


def evenly_spaced(n_layer: int, depth: int) -> tuple[int, ...]:
    """``depth`` of ``n_layer`` layers, the first and the last among them (the first alone at depth
    1); layers repeat where ``depth`` is larger."""
    if depth == 1:
        return (0,)
    return tuple(round(i * (n_layer - 1) / (depth - 1)) for i in range(depth))


def chosen_layers(
    config: ModelConfig, depth: int | None = None, layers: Sequence[int] = ()
) -> tuple[int, ...]:
    """The teacher's layer that each of the student's begins as. Raises OptionError for a layer that
    the teacher does not have, and for a ``depth`` beyond its own."""
    if not layers:
        depth = config.n_layer if depth is None else depth
        if depth > config.n_layer:
            raise OptionError(
                f"--depth {depth} exceeds the teacher's {config.n_layer} layers; give at most as "
                "many, or name those that the student repeats with --layers"
            )
        return evenly_spaced(config.n_layer, depth)
    if depth is not None and depth != len(layers):
        raise OptionError(f"--depth {depth} does not fit the {len(layers)} --layers; give one")
    for layer in layers:
        if not 0 <= layer < config.n_layer:
            raise OptionError(
                f"--layers {layer} is not valid: the teacher has layers 0 to {config.n_layer - 1}"
            )
    return tuple(layers)


def student_config(
    config: ModelConfig,
    layers: Sequence[int],
    width: int | None = None,
    n_head: int | None = None,
    n_inner: int | None = None,
) -> ModelConfig:
    """The shape of a student of the teacher ``config``. Without ``n_head`` heads keep their size;
    without ``n_inner`` the MLP keeps its proportion to the width.

    Raises OptionError for a student that is wider than its teacher, or whose heads are.
    """
    width = config.n_embd if width is None else width
    if width > config.n_embd:
        raise OptionError(
            f"--width {width} exceeds the teacher's {config.n_embd}: there is nothing to begin the "
            "other channels as; train a student from scratch and give it as --student"
        )
    if n_head is None and width % config.head_size:
        raise OptionError(
            f"--width {width} is no multiple of the teacher's head size, {config.head_size}; give "
            "--n-head, whose heads may be smaller"
        )
    heads = width // config.head_size if n_head is None else n_head
    if width % heads or width // heads > config.head_size or heads > config.n_head:
        raise OptionError(
            f"--n-head {heads} is not valid at width {width}: give a divisor of the width, at most "
            f"{config.n_head}, whose heads have at most the teacher's size, {config.head_size}"
        )
    inner = round(config.n_inner * width / config.n_embd) if n_inner is None else n_inner
    if not 1 <= inner <= config.n_inner:
        raise OptionError(f"--n-inner {inner} is not valid: give from 1 to {config.n_inner}")
    narrowed = replace(config, n_embd=width, n_head=heads, n_inner=inner, layers=())
    shapes = [config.layer_shape(layer) for layer in layers]
    return narrowed.with_layers(
        LayerShape(min(shape.n_head, heads), min(shape.n_inner, inner)) for shape in shapes
    )


@torch.no_grad()
def student_from(
    teacher: GPT2,
    depth: int | None = None,
    width: int | None = None,
    n_head: int | None = None,
    n_inner: int | None = None,
    layers: Sequence[int] = (),
    dropout: float = 0.0,
) -> GPT2:
    """A student that begins as chosen ``layers`` of ``teacher`` (by default ``depth`` of them,
    evenly spaced, with the first and the last), as DistilBERT does (Sanh et al. 2019).

    A narrower one keeps the most important channels of the residual stream, heads, parts of heads
    and MLP neurons, by the size of what is written to them times what is read from them. Where
    the attention scale depends on the layer or the size of a head, queries make up for it: a
    layer that is copied whole computes what it did.

    Raises OptionError for a shape that the teacher cannot give.
    """
    chosen = chosen_layers(teacher.config, depth, layers)
    config = student_config(teacher.config, chosen, width, n_head, n_inner)
    student = GPT2(config, dropout).to(teacher.wte.weight.device)
    channels = important_channels(teacher, config.n_embd)
    student.wte.weight.copy_(teacher.wte.weight[:, channels])
    student.wpe.weight.copy_(teacher.wpe.weight[:, channels])
    student.ln_f.weight.copy_(teacher.ln_f.weight[channels])
    student.ln_f.bias.copy_(teacher.ln_f.bias[channels])
    if not config.tie_word_embeddings:
        student.lm_head.weight.copy_(teacher.lm_head.weight[:, channels])
    for block, layer in zip(student.h, chosen, strict=True):
        source = teacher.h[layer]
        assert isinstance(block, Block)
        assert isinstance(source, Block)
        _copy_block(block, source, channels, config.head_size)
    return student


def _copy_block(block: Block, source: Block, channels: Tensor, head_size: int) -> None:
    for norm, whole in ((block.ln_1, source.ln_1), (block.ln_2, source.ln_2)):
        norm.weight.copy_(whole.weight[channels])
        norm.bias.copy_(whole.bias[channels])
    parts = important_head_parts(source, block.attn.n_head, head_size)  # (3, H_s, D_s)
    columns = parts.flatten()
    rows = parts[2].flatten() - 2 * source.attn.c_proj.weight.shape[0]  # the values', from 0
    block.attn.c_attn.weight.copy_(source.attn.c_attn.weight[channels][:, columns])
    block.attn.c_attn.bias.copy_(source.attn.c_attn.bias[columns])
    block.attn.c_proj.weight.copy_(source.attn.c_proj.weight[rows][:, channels])
    block.attn.c_proj.bias.copy_(source.attn.c_proj.bias[channels])
    queries = parts[0].numel()
    block.attn.c_attn.weight[:, :queries] *= source.attn.scale / block.attn.scale
    block.attn.c_attn.bias[:queries] *= source.attn.scale / block.attn.scale
    neurons = important_neurons(source, block.mlp.c_fc.bias.numel())
    block.mlp.c_fc.weight.copy_(source.mlp.c_fc.weight[channels][:, neurons])
    block.mlp.c_fc.bias.copy_(source.mlp.c_fc.bias[neurons])
    block.mlp.c_proj.weight.copy_(source.mlp.c_proj.weight[neurons][:, channels])
    block.mlp.c_proj.bias.copy_(source.mlp.c_proj.bias[channels])
    block.mlp.act.load_state_dict(source.mlp.act.state_dict())
