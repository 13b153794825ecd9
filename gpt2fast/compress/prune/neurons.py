"""Removing neurons of the MLPs, the same number everywhere or wherever they matter least."""

from __future__ import annotations

from dataclasses import dataclass

from gpt2fast.compress.calibration.calibration import Calibration
from gpt2fast.compress.progress import ProgressCallback, quiet
from gpt2fast.compress.prune.structured import StructuredOptions, prune_units
from gpt2fast.compress.prune.units import NEURONS
from gpt2fast.compress.state.journal import NOTHING_KEPT, TensorJournal
from gpt2fast.compress.state.model import Model
from gpt2fast.errors import OptionError


@dataclass(frozen=True)
class NeuronOptions(StructuredOptions):
    """How ``prune_neurons`` works. Raises OptionError for what is out of range."""

    uniform: bool = False  # one n_inner for all layers, which stock transformers loads
    multiple: int = 16  # neurons of a layer: panels have 16 outputs, groups 32 to 128 inputs

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.multiple < 1:
            raise OptionError(f"multiple = {self.multiple} must be at least 1")


def prune_neurons(
    model: Model,
    calibration: Calibration,
    options: NeuronOptions = NeuronOptions(),
    progress: ProgressCallback = quiet,
    journal: TensorJournal = NOTHING_KEPT,
) -> None:
    """Leave the fraction ``keep`` of all neurons, at most, so many times ``multiple`` in a layer:
    columns of ``c_fc`` and rows of ``c_proj`` go, and what is left of ``c_proj`` takes over by
    least squares.

    Raises OptionError for a quantized model, and CheckpointError, naming the layer, for NaN.
    """
    prune_units(
        model, calibration, NEURONS, options, options.uniform, options.multiple, progress, journal
    )
