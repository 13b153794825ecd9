"""Putting the runner behind a model that is in hand, and taking it away."""

from __future__ import annotations

from typing import Any

import torch

from gpt2fast.errors import OptionError, show
from gpt2fast.hf.backend.options import options_for
from gpt2fast.hf.modeling.classes import CLASSES, dismiss, enlist


def accelerate(
    model: Any,
    quantization: str | None = None,
    device: str | torch.device | None = None,
    num_threads: int | None = None,
    *,
    strict: bool = False,
) -> Any:
    """Let ``model`` run on gpt2fast's runners from now on; returns it.

    Args:
        model: of one of transformers' GPT-2 classes, or a PEFT model around one.
        quantization: integers that the runner's weights are rounded to: "int8", "int4", "int3".
        device: of the runner: "cpu", "cuda" or "cuda:<index>"; by default where the weights are. A
            model that stays on the CPU can run on a GPU: its results come back to the CPU.
        num_threads: of the CPU's runner; by default one for each physical core.
        strict: a call that needs transformers raises NotAcceleratedError with the reason, where it
            would run there otherwise.

    Weights are packed at the next call that the runner serves, torch's own leave memory, and they
    are packed again when they have changed. Calls that need transformers, for gradients for
    example, run there and say once why; ``model.last_run`` says where the last one ran. A second
    call of ``accelerate`` replaces the options of the first.

    Raises OptionError for another kind of model and for options that are not known, and ConfigError
    or UnsupportedError for a configuration or a quantization that the runner does not have.
    """
    base = _base(model)
    enlist(base, options_for(base, quantization, device, num_threads, strict))
    return model


def restore(model: Any) -> Any:
    """Undo ``accelerate``; returns ``model``. One that was never accelerated stays as it is.

    Raises OptionError for another kind of model.
    """
    dismiss(_base(model))
    return model


def _base(model: Any) -> Any:
    """The model itself, or the one that PEFT has wrapped."""
    known = ", ".join(kind.__name__ for kind in CLASSES)
    if isinstance(model, type):
        raise OptionError(
            f"{model.__name__} is a class; give a model, such as "
            "GPT2LMHeadModel.from_pretrained('gpt2')"
        )
    if not isinstance(model, torch.nn.Module):
        raise OptionError(
            f"{show(model)} is not a model; give one of transformers' {known}, such as "
            "GPT2LMHeadModel.from_pretrained('gpt2')"
        )
    wrapper: Any = model
    base = wrapper.get_base_model() if hasattr(model, "get_base_model") else model
    if not isinstance(base, tuple(CLASSES)):
        raise OptionError(
            f"{show(type(base).__name__)} is none of transformers' GPT-2 classes; give one of "
            f"{known}"
        )
    return base
