"""Removing attention heads wherever in the model they matter least."""

from __future__ import annotations

from dataclasses import dataclass

from gpt2fast.compress.calibration.calibration import Calibration
from gpt2fast.compress.progress import ProgressCallback, quiet
from gpt2fast.compress.prune.structured import StructuredOptions, prune_units
from gpt2fast.compress.prune.units import HEADS
from gpt2fast.compress.state.journal import NOTHING_KEPT, TensorJournal
from gpt2fast.compress.state.model import Model
from gpt2fast.errors import OptionError


@dataclass(frozen=True)
class HeadOptions(StructuredOptions):
    """How ``prune_heads`` works. Raises OptionError for what it cannot do."""

    uniform: bool = False  # refused: see there

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.uniform:
            raise OptionError(
                "uniform = true cannot be had for heads: stock transformers takes the head size "
                "from n_embd / n_head, so a model with fewer heads of the same size is none that "
                "it loads; prune neurons (uniform) or layers instead"
            )


def prune_heads(
    model: Model,
    calibration: Calibration,
    options: HeadOptions = HeadOptions(),
    progress: ProgressCallback = quiet,
    journal: TensorJournal = NOTHING_KEPT,
) -> None:
    """Leave the fraction ``keep`` of all heads, one at least in every layer: columns of ``c_attn``
    and rows of ``c_proj`` go, and what is left of ``c_proj`` takes over by least squares.

    Raises OptionError for a quantized model, and CheckpointError, naming the layer, for NaN.
    """
    prune_units(model, calibration, HEADS, options, False, 1, progress, journal)
