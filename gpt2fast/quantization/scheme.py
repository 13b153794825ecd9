"""What the matrices of a model are stored as: plain data, no arrays."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from gpt2fast.errors import CheckpointError, OptionError, UnsupportedError, show

EMBEDDING, HEAD = "wte.weight", "lm_head.weight"
FLOAT_FORMATS = ("float32", "bfloat16")
# The integers of a format, the least and the greatest.
INTEGER_RANGES = {"int8": (-127, 127), "int4": (-8, 7), "int3": (-4, 3)}
INTEGER_FORMATS = tuple(INTEGER_RANGES)
GPU_FORMATS = ("fp8",)  # that the CUDA runner alone has
GROUP_SIZES = (32, 64, 128)
METHOD = "gpt2fast"  # quant_method in a config.json
DEFAULT_GROUP = 64
_OVERRIDES = "overrides"  # in a quantization_config
_MATRIX = re.compile(
    r"wte\.weight|lm_head\.weight"
    r"|h\.(0|[1-9]\d{0,5})\.(attn\.c_attn|attn\.c_proj|mlp\.c_fc|mlp\.c_proj)\.weight"
)
_NAMES = (
    "'int8', 'int4', 'int3', 'fp8' (on a GPU), or with a group size of 32, 64 or 128, such as "
    "'int4-g32'"
)


@dataclass(frozen=True)
class MatrixFormat:
    """``group_size`` consecutive inputs of an output share a scale; 0 for the float formats."""

    name: str  # "float32", "bfloat16", "int8", "int4", "int3" or "fp8"
    group_size: int = 0

    @property
    def label(self) -> str:
        """Such as "int8-g64" or "bfloat16"."""
        return f"{self.name}-g{self.group_size}" if self.group_size else self.name

    @property
    def is_integer(self) -> bool:
        """Whether it has integers and scales."""
        return self.name in INTEGER_FORMATS


@dataclass(frozen=True)
class Quantization:
    """The blocks in one format, embedding and head in another, single matrices in their own.

    The tied embedding is also the head, whose errors reach the logits directly: it stays in 8 bits
    when the blocks have fewer.

    Args:
        blocks: of the four matrices of each block.
        head: of the embedding, and of a head that is not tied to it.
        overrides: (canonical name, format) of matrices that differ from that. They are put in the
            order of their names, and one that differs in nothing is left out, so that schemes that
            store the same are equal.

    Raises:
        OptionError: an override of no matrix, of one twice, or in a format that is not known.
    """

    blocks: MatrixFormat
    head: MatrixFormat
    overrides: tuple[tuple[str, MatrixFormat], ...] = ()

    def __post_init__(self) -> None:
        for name, form in self.overrides:
            if not _MATRIX.fullmatch(name):
                raise OptionError(f"overrides: {show(name)} is no matrix of a GPT-2")
            if not _is_stored(form.name, form.group_size):
                raise OptionError(f"overrides: {name} in {form.label} is not known; use {_ALL}")
        if len(dict(self.overrides)) != len(self.overrides):
            raise OptionError("overrides: a matrix is named twice")
        kept = [each for each in self.overrides if each[1] != self._default(each[0])]
        object.__setattr__(self, "overrides", tuple(sorted(kept, key=lambda each: each[0])))

    def _default(self, name: str) -> MatrixFormat:
        return self.head if name in (EMBEDDING, HEAD) else self.blocks

    def format_of(self, name: str) -> MatrixFormat:
        """Of the matrix of canonical ``name``."""
        return dict(self.overrides).get(name) or self._default(name)

    @staticmethod
    def parse(name: object) -> Quantization:
        """From a name such as "int8" or "int4-g32". Raises OptionError for any other."""
        match = (
            re.fullmatch(r"(int8|int4|int3|fp8)(?:-g(\d+))?", name)
            if isinstance(name, str)
            else None
        )
        groups = [str(size) for size in GROUP_SIZES]
        if match is None or (match[2] and match[2] not in groups):
            raise OptionError(f"quantization = {show(name)} is not known; use {_NAMES}")
        blocks = MatrixFormat(match[1], int(match[2] or DEFAULT_GROUP))
        small = match[1] in ("int4", "int3")
        return Quantization(blocks, MatrixFormat("int8", DEFAULT_GROUP) if small else blocks)

    @property
    def is_mixed(self) -> bool:
        """Whether no name that ``parse`` takes stands for it."""
        return self != Quantization.parse(self.blocks.label)

    @property
    def name(self) -> str:
        """What ``parse`` takes; of a mixed scheme, "mixed" and the formats that it has."""
        if not self.is_mixed:
            return self.blocks.label
        formats = (self.blocks, self.head, *(form for _, form in self.overrides))
        return f"mixed ({', '.join(dict.fromkeys(form.label for form in formats))})"

    def to_config(self) -> dict[str, Any]:
        """The ``quantization_config`` of a config.json."""
        fields = {
            "quant_method": METHOD,
            "format": self.blocks.name,
            "group_size": self.blocks.group_size,
            "head_format": self.head.name,
            "head_group_size": self.head.group_size,
        }
        overrides = {
            name: {"format": form.name, "group_size": form.group_size}
            for name, form in self.overrides
        }
        return {**fields, _OVERRIDES: overrides} if overrides else fields

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
        head = _format(raw, "head_format", "head_group_size", where)
        scheme = Quantization(blocks, head, _overrides(raw.get(_OVERRIDES, {}), where))
        _refuse_unknown(raw, {*scheme.to_config(), _OVERRIDES}, where)
        return scheme


_INTEGERS = "int8, int4 or int3 in groups of 32, 64 or 128"
_ALL = f"{_INTEGERS}, float32 or bfloat16 in groups of 0"


def _is_stored(name: object, group: object) -> bool:
    """Whether a matrix may be stored so in a quantized checkpoint."""
    if type(name) is not str or type(group) is not int:
        return False
    return group in GROUP_SIZES if name in INTEGER_FORMATS else name in FLOAT_FORMATS and not group


def _format(
    raw: dict[str, Any], name: str, group: str, where: str, floats: bool = False
) -> MatrixFormat:
    form, size = raw.get(name), raw.get(group)
    if not _is_stored(form, size) or (form in FLOAT_FORMATS and not floats):
        raise CheckpointError(
            f"{where}: quantization_config has {name} = {show(form)} and {group} = {show(size)}; "
            f"{_ALL if floats else _INTEGERS} are known"
        )
    return MatrixFormat(raw[name], raw[group])


def _overrides(raw: object, where: str) -> tuple[tuple[str, MatrixFormat], ...]:
    if not isinstance(raw, dict):
        raise CheckpointError(
            f"{where}: quantization_config has {_OVERRIDES} = {show(raw)}; matrices by name "
            "are expected"
        )
    found = []
    for name, fields in raw.items():
        if not _MATRIX.fullmatch(name):
            raise CheckpointError(
                f"{where}: quantization_config: {_OVERRIDES} has {show(name)}, which is no matrix "
                "of a GPT-2"
            )
        inside = f"{where}: {_OVERRIDES}: {name}"
        if not isinstance(fields, dict):
            raise CheckpointError(f"{inside} is {show(fields)}; format and group_size are expected")
        _refuse_unknown(fields, {"format", "group_size"}, inside)
        found.append((name, _format(fields, "format", "group_size", inside, floats=True)))
    return tuple(found)


def _refuse_unknown(raw: dict[str, Any], known: set[str], where: str) -> None:
    if unknown := raw.keys() - known:
        raise CheckpointError(
            f"{where}: quantization_config has unknown fields: "
            f"{', '.join(sorted(map(show, unknown)))}; a newer gpt2fast may know them"
        )


def agree(
    wanted: str | Quantization | None, stored: Quantization | None, model: object
) -> Quantization | None:
    """The scheme that runs ``model``: what is asked for, or what its checkpoint is stored in.

    Raises OptionError where they differ: integers are not rounded a second time.
    """
    scheme = Quantization.parse(wanted) if isinstance(wanted, str) else wanted
    if stored is None or scheme is None:
        return scheme or stored
    # A name without a group size has any.
    if scheme != stored and (stored.is_mixed or wanted != stored.blocks.name):
        name = wanted if isinstance(wanted, str) else scheme.name
        raise OptionError(
            f"quantization = {name!r}, but {model} is stored in {stored.name}; leave the option "
            "out, or give the float checkpoint it was made from"
        )
    return stored
