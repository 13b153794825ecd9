"""What the matrices of a model are stored as: plain data, no arrays."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from gpt2fast.config import ModelConfig
from gpt2fast.errors import CheckpointError, OptionError, show

EMBEDDING, HEAD = "wte.weight", "lm_head.weight"
INTEGER_FORMATS = ("int8", "int4")
GROUP_SIZES = (32, 64, 128)
METHOD = "gpt2fast"  # quant_method in a config.json
_DEFAULT_GROUPS = {"int8": 64, "int4": 64}
_NAMES = "'int8', 'int4', or with a group size of 32, 64 or 128, such as 'int4-g32'"


@dataclass(frozen=True)
class MatrixFormat:
    """``group_size`` consecutive inputs of an output share a scale; 0 for the float formats."""

    name: str  # "float32", "bfloat16", "int8" or "int4"
    group_size: int = 0

    @property
    def bits_per_weight(self) -> float:
        """Bits a weight takes, scales included."""
        bits = {"float32": 32.0, "bfloat16": 16.0, "int8": 8.0, "int4": 4.0}[self.name]
        return bits + (16 / self.group_size if self.group_size else 0.0)


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
        match = re.fullmatch(r"(int8|int4)(?:-g(\d+))?", name) if isinstance(name, str) else None
        if match is None or (match[2] and int(match[2]) not in GROUP_SIZES):
            raise OptionError(f"quantization = {show(name)} is not known; use {_NAMES}")
        group = int(match[2] or _DEFAULT_GROUPS[match[1]])
        head = MatrixFormat("int8", group if match[1] == "int8" else _DEFAULT_GROUPS["int8"])
        return Quantization(MatrixFormat(match[1], group), head)

    @property
    def name(self) -> str:
        """What ``parse`` takes."""
        return f"{self.blocks.name}-g{self.blocks.group_size}"

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
        """From the ``quantization_config`` of the file ``where``; CheckpointError if it is not."""
        if not isinstance(raw, dict) or raw.get("quant_method") != METHOD:
            method = raw.get("quant_method") if isinstance(raw, dict) else raw
            raise CheckpointError(
                f"{where}: quantization_config of the method {show(method)} is not supported; "
                "give the float checkpoint and let gpt2fast quantize it (quantization='int8')"
            )
        blocks = _format(raw, "format", "group_size", where)
        return Quantization(blocks, _format(raw, "head_format", "head_group_size", where))


def _format(raw: dict[str, Any], name: str, group: str, where: str) -> MatrixFormat:
    if raw.get(name) not in INTEGER_FORMATS or raw.get(group) not in GROUP_SIZES:
        raise CheckpointError(
            f"{where}: quantization_config has {name} = {show(raw.get(name))} and {group} = "
            f"{show(raw.get(group))}; int8 or int4 in groups of 32, 64 or 128 are known"
        )
    return MatrixFormat(raw[name], raw[group])


def matrix_names(config: ModelConfig) -> list[str]:
    """Canonical names of the matrices that a runner packs: the blocks', embedding and head."""
    parts = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    blocks = [f"h.{layer}.{part}.weight" for layer in range(config.n_layer) for part in parts]
    return [EMBEDDING, *blocks, *([] if config.tie_word_embeddings else [HEAD])]


def matrix_formats(
    config: ModelConfig, dtype: str, quantization: Quantization | None
) -> dict[str, MatrixFormat]:
    """The format of each matrix. ``dtype`` is "float32" or "bfloat16"."""
    if quantization is None:
        return dict.fromkeys(matrix_names(config), MatrixFormat(dtype))
    return {
        name: quantization.head if name in (EMBEDDING, HEAD) else quantization.blocks
        for name in matrix_names(config)
    }


def weight_bytes(config: ModelConfig, dtype: str, quantization: Quantization | None) -> int:
    """About what the CPU runner holds, all but the matrices being float32."""
    formats = matrix_formats(config, "float32" if dtype == "auto" else dtype, quantization)
    width, total = config.n_embd, 32.0 * config.num_parameters
    for name, matrix in formats.items():
        total -= (32.0 - matrix.bits_per_weight) * _size(config, name.removesuffix(".weight"), width)
    return int(total / 8)


def _size(config: ModelConfig, name: str, width: int) -> int:
    if name.endswith("c_attn"):
        return 3 * width * width
    if name.endswith("attn.c_proj"):
        return width * width
    return width * (config.n_inner if ".mlp." in name else config.vocab_size)
