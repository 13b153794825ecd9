"""``accelerate`` and ``restore``: changing the class of an existing model, and changing it back."""

from __future__ import annotations

from typing import Any

import torch

from gpt2fast.errors import OptionError, show
from gpt2fast.hf.backend.options import options_for
from gpt2fast.hf.modeling.classes import CLASSES, attach, detach


def accelerate(
    model: Any,
    quantization: str | None = None,
    device: str | torch.device | None = None,
    num_threads: int | None = None,
    *,
    strict: bool = False,
) -> Any:
    """Run ``model`` on gpt2fast's runners from now on; returns it.

    Args:
        model: an instance of one of transformers' GPT-2 classes, or a PEFT model around one.
        quantization: how the runner's weights are quantized: "int8", "int4", "int3".
        device: of the runner: "cpu", "cuda" or "cuda:<index>"; by default that of the weights. A
            model on the CPU can have a runner on a GPU; its outputs are on the CPU.
        num_threads: of the CPU runner; by default one for each physical core.
        strict: a call that would fall back to transformers raises NotAcceleratedError with the
            reason instead.

    Weights are packed at the next call that the runner serves, torch's own are offloaded from
    memory, and they are packed again after they have changed. Calls that the runner does not
    support, for example with gradients, run in transformers and warn once why; ``model.last_run``
    tells where the last one ran. Calling ``accelerate`` again replaces the options.

    Raises OptionError for another kind of model or an unknown option, and ConfigError or
    UnsupportedError for a config or a quantization that the runner does not support.
    """
    base = _base(model)
    attach(base, options_for(base, quantization, device, num_threads, strict))
    return model


def restore(model: Any) -> Any:
    """Undo ``accelerate``; returns ``model``. A model that was never accelerated is unchanged.

    Raises OptionError for another kind of model.
    """
    detach(_base(model))
    return model


def _base(model: Any) -> Any:
    """The model itself, or the one inside a PEFT model."""
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
