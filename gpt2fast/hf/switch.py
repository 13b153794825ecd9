"""Putting the runner behind a model that is in hand, and taking it away."""

from __future__ import annotations

from typing import Any

from gpt2fast.errors import OptionError, show
from gpt2fast.hf.models import CLASSES, dismiss, enlist
from gpt2fast.hf.native import Options
from gpt2fast.hf.source import config_of
from gpt2fast.quantization import Quantization


def accelerate(model: Any, quantization: str | None = None, num_threads: int | None = None) -> Any:
    """Let ``model`` run on gpt2fast's C++ runner from now on; returns it.

    Args:
        model: of one of transformers' GPT-2 classes.
        quantization: integers that the runner's weights are rounded to: "int8", "int4", "int3".
        num_threads: of the runner; by default one for each physical core.

    Weights are packed at the next call that the runner serves, beside torch's own, and again when
    these have changed. Calls that need transformers, for gradients for example, run there and say
    once why. Raises OptionError for another kind of model or a quantization that is not known, and
    ConfigError for a configuration that is not supported.
    """
    if not isinstance(model, tuple(CLASSES)):
        raise OptionError(
            f"{show(type(model).__name__)} is none of transformers' GPT-2 classes; give one of "
            f"{', '.join(kind.__name__ for kind in CLASSES)}"
        )
    config_of(model)
    scheme = None if quantization is None else Quantization.parse(quantization)
    enlist(model, Options(scheme, num_threads))
    return model


def restore(model: Any) -> Any:
    """Undo ``accelerate``; returns ``model``."""
    dismiss(model)
    return model
