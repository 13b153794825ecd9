"""The packed matrices of the CPU runner, by shape and format: plain data, no arrays."""

from __future__ import annotations

from dataclasses import dataclass

from gpt2fast.config import ACTIVATION_PARAMETERS, ModelConfig
from gpt2fast.errors import OptionError, UnsupportedError
from gpt2fast.quantization.scheme import EMBEDDING, GPU_FORMATS, HEAD, MatrixFormat, Quantization

LANES = 16  # outputs side by side in a panel
_BITS = {"float32": 32, "bfloat16": 16, "int8": 8, "int4": 4, "int3": 3}
# Inputs are padded to whole ones.
_UNITS = {"float32": 1, "bfloat16": 2, "int8": 8, "int4": 8, "int3": 32}
_CACHE_LINE = 64


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
        """K in whole units of the format; what is added stands for zeros."""
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

    Raises UnsupportedError for a format that it does not have, OptionError for an override of a
    matrix that the model does not have.
    """
    if quantization is not None and quantization.blocks.name in GPU_FORMATS:
        raise UnsupportedError(
            f"quantization = {quantization.name!r} is not available on the cpu runner, only "
            "on an NVIDIA GPU; use 'int8', 'int4' or 'int3'"
        )
    c = config.n_embd
    shapes = {EMBEDDING: (c, config.vocab_size)}
    for layer, shape in enumerate(config.layer_shapes):
        attended, inner = shape.n_head * config.head_size, shape.n_inner
        sizes = {
            "attn.c_attn": (c, 3 * attended),
            "attn.c_proj": (attended, c),
            "mlp.c_fc": (c, inner),
            "mlp.c_proj": (inner, c),
        }
        shapes.update({f"h.{layer}.{part}.weight": size for part, size in sizes.items()})
    if not config.tie_word_embeddings:
        shapes[HEAD] = (c, config.vocab_size)
    if quantization is None:
        return {name: PanelLayout(MatrixFormat(dtype), *size) for name, size in shapes.items()}
    if strange := sorted(dict(quantization.overrides).keys() - shapes.keys()):
        raise OptionError(f"overrides: the model has no matrix {', '.join(strange[:5])}")
    return {name: PanelLayout(quantization.format_of(name), *size) for name, size in shapes.items()}


def bytes_by_format(layouts: dict[str, PanelLayout], config: ModelConfig) -> dict[str, int]:
    """Bytes of all weights as the CPU runner holds them, by the label of their format; all but the
    matrices are float32."""
    result = {"float32": vector_bytes(config) + _position_bytes(config)}
    for layout in layouts.values():
        label = layout.format.label
        result[label] = result.get(label, 0) + layout.num_bytes
    return result


def bytes_per_step(layouts: dict[str, PanelLayout], config: ModelConfig) -> int:
    """Bytes of weights that one decode step reads: of the embeddings a row, so next to nothing."""
    read = vector_bytes(config) + sum(layout.num_bytes for layout in layouts.values())
    return read if config.tie_word_embeddings else read - layouts[EMBEDDING].num_bytes


def _position_bytes(config: ModelConfig) -> int:
    return 4 * config.n_positions * config.n_embd


def vector_bytes(config: ModelConfig) -> int:
    """Bytes of LayerNorms, biases and learned activations: a step reads them all."""
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
