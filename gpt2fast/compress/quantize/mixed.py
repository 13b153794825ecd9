"""Mixed precision as one pass: measure what each matrix loses, choose formats, round."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from gpt2fast.compress.calibration.calibration import Calibration
from gpt2fast.compress.quantize.assign import assign_formats, matrix_bytes
from gpt2fast.compress.quantize.options import METHODS, QuantizeOptions
from gpt2fast.compress.quantize.sensitivity import sensitivities
from gpt2fast.compress.state.journal import TensorJournal
from gpt2fast.compress.state.model import Model
from gpt2fast.config import ModelConfig
from gpt2fast.errors import OptionError
from gpt2fast.quantization import EMBEDDING, HEAD, MatrixFormat, Quantization
from gpt2fast.quantization.panel_layout import matrix_layouts

_FORMATS = (MatrixFormat("int8", 64), MatrixFormat("int4", 64), MatrixFormat("int3", 64))


@dataclass(frozen=True)
class MixedOptions:
    """Raises OptionError naming a field that is out of range."""

    bits: float = 4.5  # the mean of all weights in matrices, scales included
    formats: tuple[MatrixFormat, ...] = _FORMATS  # to choose from
    method: str = "gptq"  # of all matrices, embedding and head too
    per_step: bool = False  # count what decoding a token reads, not what the file holds

    def __post_init__(self) -> None:
        if not 0 < self.bits <= 32:
            raise OptionError(f"bits = {self.bits} must be above 0 and at most 32")
        if not self.formats or not all(form.is_integer for form in self.formats):
            raise OptionError("formats must be one or more of integers, such as int4-g64")
        if self.method not in METHODS:
            raise OptionError(f"method = {self.method!r} is none of {', '.join(METHODS)}")


def mixed_formats(
    model: Model,
    calibration: Calibration,
    options: MixedOptions,
    journal: TensorJournal,
    progress: Callable[[str, int, int], None],
) -> QuantizeOptions:
    """The formats of least total loss within ``options.bits``, as options of ``quantize``;
    ``journal`` keeps what each matrix loses.

    Raises OptionError where ``bits`` are fewer than the smallest format has.
    """
    budget, sizes = bytes_within(model.config, options)
    table = sensitivities(model, calibration, options.formats, progress=progress, journal=journal)
    return _as_options(assign_formats(table, sizes, budget), options.method)


def bytes_within(
    config: ModelConfig, options: MixedOptions
) -> tuple[int, dict[str, dict[MatrixFormat, int]]]:
    """Bytes that all matrices may take, and what each takes in each format. Raises OptionError
    where even the smallest take more."""
    sizes = matrix_bytes(config, options.formats, options.per_step)
    weights = num_weights(config, options.per_step)
    budget = int(options.bits / 8 * weights)
    least = sum(min(row.values()) for row in sizes.values())
    if least > budget:
        raise OptionError(
            f"bits = {options.bits:g} are too few: the smallest of the formats takes "
            f"{8 * least / weights:.2f}; raise them, or allow smaller formats"
        )
    return budget, sizes


def num_weights(config: ModelConfig, per_step: bool = False) -> int:
    """Weights in matrices; ``per_step`` without an embedding that is not the head as well."""
    looked_up = per_step and not config.tie_word_embeddings
    return sum(
        layout.inputs * layout.outputs
        for name, layout in matrix_layouts(config, "float32", None).items()
        if not (looked_up and name == EMBEDDING)
    )


def mean_bits(config: ModelConfig, scheme: Quantization) -> float:
    """Bits of a weight in matrices under ``scheme``, scales included."""
    layouts = matrix_layouts(config, "float32", scheme)
    return 8 * sum(layout.num_bytes for layout in layouts.values()) / num_weights(config)


def _as_options(chosen: dict[str, MatrixFormat], method: str) -> QuantizeOptions:
    inner = Counter(form for name, form in chosen.items() if name not in (EMBEDDING, HEAD))
    ((blocks, _),) = inner.most_common(1)
    head = chosen[EMBEDDING]
    own = {name: head if name in (EMBEDDING, HEAD) else blocks for name in chosen}
    overrides = tuple((name, form) for name, form in chosen.items() if form != own[name])
    return QuantizeOptions(method=method, blocks=blocks, head=head, overrides=overrides)
