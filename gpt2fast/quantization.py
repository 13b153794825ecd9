"""What the matrices of a model are stored as, and the bytes they take: plain data, no arrays."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from gpt2fast.config import ACTIVATION_PARAMETERS, ModelConfig
from gpt2fast.errors import CheckpointError, OptionError, UnsupportedError, show

EMBEDDING, HEAD = "wte.weight", "lm_head.weight"
INTEGER_FORMATS = ("int8", "int4")
GPU_FORMATS = ("fp8",)  # that the CUDA runner alone has
GROUP_SIZES = (32, 64, 128)
METHOD = "gpt2fast"  # quant_method in a config.json
LANES = 16  # outputs side by side in a panel
_BITS = {"float32": 32, "bfloat16": 16, "int8": 8, "int4": 4}
_UNITS = {"float32": 1, "bfloat16": 2, "int8": 8, "int4": 8}  # inputs are padded to whole ones
_CACHE_LINE = 64
_DEFAULT_GROUPS = {"int8": 64, "int4": 64, "fp8": 64}
_NAMES = (
    "'int8', 'int4', 'fp8' (on a GPU), or with a group size of 32, 64 or 128, such as 'int4-g32'"
)


@dataclass(frozen=True)
class MatrixFormat:
    """``group_size`` consecutive inputs of an output share a scale; 0 for the float formats."""

    name: str  # "float32", "bfloat16", "int8", "int4" or "fp8"
    group_size: int = 0

    @property
    def label(self) -> str:
        """Such as "int8-g64" or "bfloat16"."""
        return f"{self.name}-g{self.group_size}" if self.group_size else self.name


@dataclass(frozen=True)
class Quantization:
    """Round-to-nearest weights: the blocks in one format, embedding and head in another.

    The tied embedding is also the head, whose errors reach the logits directly: it stays in 8 bits
    when the blocks have 4.
    """

    blocks: MatrixFormat
    head: MatrixFormat

    @staticmethod
    def parse(name: object) -> Quantization:
        """From a name such as "int8" or "int4-g32". Raises OptionError for any other."""
        match = (
            re.fullmatch(r"(int8|int4|fp8)(?:-g(\d+))?", name) if isinstance(name, str) else None
        )
        groups = [str(size) for size in GROUP_SIZES]
        if match is None or (match[2] and match[2] not in groups):
            raise OptionError(f"quantization = {show(name)} is not known; use {_NAMES}")
        group = int(match[2] or _DEFAULT_GROUPS[match[1]])
        blocks = MatrixFormat(match[1], group)
        head = MatrixFormat("int8", _DEFAULT_GROUPS["int8"]) if match[1] == "int4" else blocks
        return Quantization(blocks, head)

    @property
    def name(self) -> str:
        """What ``parse`` takes."""
        return self.blocks.label

    def to_config(self) -> dict[str, Any]:
        """The ``quantization_config`` of a config.json."""
        return {
            "quant_method": METHOD,
            "format": self.blocks.name,
            "group_size": self.blocks.group_size,
            "head_format": self.head.name,
            "head_group_size": self.head.group_size,
        }

    @staticmethod
    def from_config(raw: object, where: str) -> Quantization:
        """From the ``quantization_config`` of the file ``where``.

        Raises UnsupportedError for the method of another tool, CheckpointError for anything that
        ``to_config`` does not write.
        """
        if not isinstance(raw, dict) or raw.get("quant_method") != METHOD:
            method = raw.get("quant_method") if isinstance(raw, dict) else raw
            raise UnsupportedError(
                f"{where}: quantization_config of the method {show(method)} is not supported; "
                "give the float checkpoint and let gpt2fast quantize it (quantization='int8')"
            )
        blocks = _format(raw, "format", "group_size", where)
        scheme = Quantization(blocks, _format(raw, "head_format", "head_group_size", where))
        if unknown := raw.keys() - scheme.to_config().keys():
            raise CheckpointError(
                f"{where}: quantization_config has unknown fields: "
                f"{', '.join(sorted(map(show, unknown)))}; a newer gpt2fast may know them"
            )
        return scheme


def _format(raw: dict[str, Any], name: str, group: str, where: str) -> MatrixFormat:
    known = raw.get(name) in INTEGER_FORMATS and raw.get(group) in GROUP_SIZES
    if not known or type(raw[group]) is not int:
        raise CheckpointError(
            f"{where}: quantization_config has {name} = {show(raw.get(name))} and {group} = "
            f"{show(raw.get(group))}; int8 or int4 in groups of 32, 64 or 128 are known"
        )
    return MatrixFormat(raw[name], raw[group])


def agree(wanted: str | None, stored: Quantization | None, model: object) -> Quantization | None:
    """The scheme that runs ``model``: what is asked for, or what its checkpoint is stored in.

    Raises OptionError where they differ: integers are not rounded a second time.
    """
    scheme = None if wanted is None else Quantization.parse(wanted)
    if stored is None or scheme is None:
        return scheme or stored
    if scheme != stored and wanted != stored.blocks.name:  # a name without a group size has any
        raise OptionError(
            f"quantization = {wanted!r}, but {model} is stored in {stored.name}; leave the option "
            "out, or give the float checkpoint it was made from"
        )
    return stored


@dataclass(frozen=True)
class PanelLayout:
    """A packed matrix, as ``csrc/kernels/panels.h`` lays it out: panels of 16 outputs, each the
    scales (groups, 16) in bfloat16 where the format has any, then the values of all inputs."""

    format: MatrixFormat
    inputs: int  # K
    outputs: int  # N

    @property
    def count(self) -> int:
        """Panels: N / 16, rounded up."""
        return -(-self.outputs // LANES)

    @property
    def padded_inputs(self) -> int:
        """K in whole units of the format; what is added holds zeros."""
        return _round_up(self.inputs, _UNITS[self.format.name])

    @property
    def groups(self) -> int:
        """Groups of inputs, each with a scale an output; the last may be smaller."""
        return -(-self.inputs // self.format.group_size) if self.format.group_size else 0

    @property
    def scale_bytes(self) -> int:
        """Bytes of a panel before its values."""
        return _round_up(self.groups * LANES * 2, _CACHE_LINE)

    @property
    def value_bytes(self) -> int:
        """Bytes of a panel's values."""
        return self.padded_inputs * LANES * _BITS[self.format.name] // 8

    @property
    def shape(self) -> tuple[int, int]:
        """(panels, bytes of a panel): of the matrix as stored."""
        return self.count, _round_up(self.scale_bytes + self.value_bytes, _CACHE_LINE)

    @property
    def num_bytes(self) -> int:
        """Bytes of the matrix."""
        return self.shape[0] * self.shape[1]


def _round_up(count: int, multiple: int) -> int:
    return -(-count // multiple) * multiple


def matrix_layouts(
    config: ModelConfig, dtype: str, quantization: Quantization | None
) -> dict[str, PanelLayout]:
    """Canonical name -> layout of each matrix that the CPU runner packs: the blocks', the
    embedding and an untied head. ``dtype`` is "float32" or "bfloat16".

    Raises UnsupportedError for a format that it does not have.
    """
    if quantization is not None and quantization.blocks.name in GPU_FORMATS:
        raise UnsupportedError(
            f"quantization = {quantization.name!r} is not available on the cpu runner; use 'int8' "
            "or 'int4', or device='cuda'"
        )
    c = config.n_embd
    blocks = MatrixFormat(dtype) if quantization is None else quantization.blocks
    head = MatrixFormat(dtype) if quantization is None else quantization.head
    layouts = {EMBEDDING: PanelLayout(head, c, config.vocab_size)}
    for layer, shape in enumerate(config.layer_shapes):
        attended, inner = shape.n_head * config.head_size, shape.n_inner
        sizes = {
            "attn.c_attn": (c, 3 * attended),
            "attn.c_proj": (attended, c),
            "mlp.c_fc": (c, inner),
            "mlp.c_proj": (inner, c),
        }
        for part, (inputs, outputs) in sizes.items():
            layouts[f"h.{layer}.{part}.weight"] = PanelLayout(blocks, inputs, outputs)
    if not config.tie_word_embeddings:
        layouts[HEAD] = PanelLayout(head, c, config.vocab_size)
    return layouts


def bytes_by_format(layouts: dict[str, PanelLayout], config: ModelConfig) -> dict[str, int]:
    """Bytes of all weights as the CPU runner holds them, by the label of their format; all but the
    matrices are float32."""
    result = {"float32": _vector_bytes(config) + _position_bytes(config)}
    for layout in layouts.values():
        label = layout.format.label
        result[label] = result.get(label, 0) + layout.num_bytes
    return result


def bytes_per_step(layouts: dict[str, PanelLayout], config: ModelConfig) -> int:
    """Bytes of weights that one decode step reads: of the embeddings a row, so next to nothing."""
    read = _vector_bytes(config) + sum(layout.num_bytes for layout in layouts.values())
    return read if config.tie_word_embeddings else read - layouts[EMBEDDING].num_bytes


def _position_bytes(config: ModelConfig) -> int:
    return 4 * config.n_positions * config.n_embd


def _vector_bytes(config: ModelConfig) -> int:
    c = config.n_embd
    norm = [c, c]
    learned = [1] * len(ACTIVATION_PARAMETERS.get(config.activation_function, {}))
    sizes = [
        size
        for shape in config.layer_shapes
        for size in (
            *norm,
            3 * shape.n_head * config.head_size,
            c,
            *norm,
            shape.n_inner,
            c,
            *learned,
        )
    ]
    return 4 * sum(_round_up(size, LANES) for size in sizes + norm)
