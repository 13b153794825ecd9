"""What every pass asks of a model before it starts, and of numbers on the way."""

from __future__ import annotations

from torch import Tensor

from gpt2fast.compress.calibration.calibration import Calibration
from gpt2fast.compress.state.model import Model
from gpt2fast.errors import CheckpointError, OptionError


def require_float(model: Model) -> None:
    """Raise OptionError for a model some of whose matrices are integers already."""
    if model.matrices:
        raise OptionError(
            f"{len(model.matrices)} matrices are quantized already, {next(iter(model.matrices))} "
            "among them; prune before quantizing"
        )


def require_predictions(calibration: Calibration, what: str) -> None:
    """Raise OptionError for windows in which nothing is predicted, which ``what`` needs."""
    length = calibration.windows.shape[1]
    if length < 2:
        raise OptionError(f"{what} needs calibration windows of 2 tokens at least, not {length}")


def require_fraction(name: str, value: float) -> None:
    """Raise OptionError unless 0 < value <= 1."""
    if not 0 < value <= 1:
        raise OptionError(f"{name} = {value} must be above 0 and at most 1")


def require_finite(values: Tensor, place: str) -> None:
    """Raise CheckpointError, naming ``place``, for NaN and infinite values."""
    if not bool(values.isfinite().all()):
        raise CheckpointError(
            f"{place} is NaN or infinite on the calibration text: the model overflows there, or "
            "an earlier pass broke it; check the model with gpt2fast eval"
        )
