"""Stored names -> canonical names, strictly: every tensor expected is there, and none else."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from gpt2fast.checkpoint.tensor import FLOAT_BYTES, TensorInfo
from gpt2fast.config import ACTIVATION_PARAMETERS, LayerShape, ModelConfig
from gpt2fast.errors import CheckpointError, UnsupportedError

PREFIX = "transformer."
TOKEN_TABLE = "wte.weight"
HEAD = "lm_head.weight"

# The causal mask and its fill value, once saved as buffers; they hold nothing learned.
_BUFFER = re.compile(r"h\.\d+\.attn\.(masked_)?bias")
# Heads of other tasks (transformers' GPT2 classes, and trl's value head) beside the network.
_TASK_HEAD = re.compile(r"(score|multiple_choice_head|classifier|qa_outputs|v_head)\..+")
_LISTED = 40  # names of each kind in a message


def expected_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Canonical name -> shape, in order. Linear weights are (inputs, outputs)."""
    c = config.n_embd
    shapes: dict[str, tuple[int, ...]] = {
        TOKEN_TABLE: (config.vocab_size, c),
        "wpe.weight": (config.n_positions, c),
    }
    for layer, shape in enumerate(config.layer_shapes):
        block = _block_shapes(config, shape)
        shapes.update({f"h.{layer}.{name}": size for name, size in block.items()})
    shapes.update({"ln_f.weight": (c,), "ln_f.bias": (c,)})
    if not config.tie_word_embeddings:
        shapes[HEAD] = (config.vocab_size, c)
    return shapes


def _block_shapes(config: ModelConfig, layer: LayerShape) -> dict[str, tuple[int, ...]]:
    c, inner, attended = config.n_embd, layer.n_inner, layer.n_head * config.head_size
    learned = ACTIVATION_PARAMETERS.get(config.activation_function, {})
    return {
        "ln_1.weight": (c,),
        "ln_1.bias": (c,),
        "attn.c_attn.weight": (c, 3 * attended),
        "attn.c_attn.bias": (3 * attended,),
        "attn.c_proj.weight": (attended, c),
        "attn.c_proj.bias": (c,),
        "ln_2.weight": (c,),
        "ln_2.bias": (c,),
        "mlp.c_fc.weight": (c, inner),
        "mlp.c_fc.bias": (inner,),
        "mlp.c_proj.weight": (inner, c),
        "mlp.c_proj.bias": (c,),
        **{f"mlp.act.{name}": shape for name, shape in learned.items()},
    }


def num_parameters(shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Weights in tensors of ``shapes``, by canonical name; stored constants (no shape) are none."""
    return sum(math.prod(shape) for shape in shapes.values() if shape)


def stored_name(name: str) -> str:
    """The name that transformers' language model has for a tensor of the canonical ``name``: the
    network's have a prefix, the head has none. A name that has the prefix is returned as it is."""
    return name if name == HEAD or name.startswith(PREFIX) else f"{PREFIX}{name}"


def canonical_tensors(stored: Iterable[TensorInfo], directory: Path) -> dict[str, TensorInfo]:
    """Drop the ``transformer.`` prefix, mask buffers and (with a warning) heads of other tasks."""
    tensors: dict[str, TensorInfo] = {}
    task_heads: list[str] = []
    for info in stored:
        name = info.name.removeprefix(PREFIX)
        if _BUFFER.fullmatch(name):
            continue
        if _TASK_HEAD.fullmatch(name):
            task_heads.append(info.name)
        elif name in tensors:
            raise CheckpointError(
                f"{directory}: {name!r} is stored both with and without the prefix {PREFIX!r}"
            )
        else:
            tensors[name] = info
    if task_heads:
        warnings.warn(
            f"{directory}: the head of another task is not used: {_list(sorted(task_heads))}",
            stacklevel=4,
        )
    return tensors


def check_tensors(
    config: ModelConfig,
    tensors: dict[str, TensorInfo],
    directory: Path,
    packed: Mapping[str, tuple[int, ...]],
    dtypes: Mapping[str, str],
) -> None:
    """Raises one CheckpointError that lists all missing, unexpected and mis-shaped tensors, and
    UnsupportedError for a type that is not a float of 16, 32 or 64 bits.

    Of a quantized checkpoint, ``packed`` has the shapes that its integers are stored in, and
    ``dtypes`` the type that each of its matrices must have."""
    shapes = {**expected_shapes(config), **packed}
    # A tied table may be stored under either name, or both; a quantized one has a single name.
    tied = config.tie_word_embeddings and not dtypes
    optional = {HEAD, TOKEN_TABLE} if tied else set()
    if optional & tensors.keys():
        missing = [name for name in shapes if name not in tensors and name not in optional]
    else:
        missing = [name for name in shapes if name not in tensors]
    if HEAD in optional:
        shapes[HEAD] = shapes[TOKEN_TABLE]
    unexpected = [tensors[name].name for name in tensors if name not in shapes]
    mis_shaped = [
        f"{tensors[name].name} is {list(tensors[name].shape)}, the config says {list(shape)}"
        for name, shape in shapes.items()
        if name in tensors and tensors[name].shape != shape
    ]
    problems = {"missing": missing, "unexpected": unexpected, "wrong shape": mis_shaped}
    found = [f"{kind} ({len(items)}): {_list(items)}" for kind, items in problems.items() if items]
    if found:
        raise CheckpointError(
            f"{directory}: the tensors do not match config.json. {'. '.join(found)}"
        )
    for name in shapes:
        readable = [dtypes[name]] if name in dtypes else list(FLOAT_BYTES)
        if name in tensors and tensors[name].dtype not in readable:
            info = tensors[name]
            raise UnsupportedError(
                f"{info.path}: tensor {info.name!r} is {info.dtype}; only "
                f"{', '.join(readable)} can be read here"
            )


def untie(config: ModelConfig, directory: Path) -> ModelConfig:
    """The configuration of a checkpoint that stores a head unlike its token table.

    transformers 5 then keeps both in spite of ``tie_word_embeddings`` (version 4 dropped the
    stored head without a word), and so does this.
    """
    warnings.warn(
        f"{directory}: config.json ties the head to the token embedding, but the stored "
        f"{HEAD} differs from {TOKEN_TABLE}; the stored head is used. Write "
        '"tie_word_embeddings": false to silence this',
        stacklevel=4,
    )
    return replace(config, tie_word_embeddings=False)


def _list(items: list[str]) -> str:
    more = len(items) - _LISTED
    return ", ".join(items[:_LISTED]) + (f" and {more} more" if more > 0 else "")
