"""Putting the runner behind a model that is in hand, and taking it away."""

from __future__ import annotations

import re
from typing import Any

import torch

from gpt2fast.errors import OptionError, show
from gpt2fast.hf.classes import CLASSES, dismiss, enlist
from gpt2fast.hf.native import Options, device_of
from gpt2fast.hf.packed import Packed
from gpt2fast.hf.source import config_of
from gpt2fast.panel_layout import matrix_layouts
from gpt2fast.quantization import agree
from gpt2fast.runners.cpu import check_threads


def accelerate(
    model: Any,
    quantization: str | None = None,
    device: str | torch.device | None = None,
    num_threads: int | None = None,
) -> Any:
    """Let ``model`` run on gpt2fast's runners from now on; returns it.

    Args:
        model: of one of transformers' GPT-2 classes, or a PEFT model around one.
        quantization: integers that the runner's weights are rounded to: "int8", "int4", "int3".
        device: of the runner: "cpu", "cuda" or "cuda:<index>"; by default where the weights are. A
            model that stays on the CPU can run on a GPU: its results come back to the CPU.
        num_threads: of the CPU's runner; by default one for each physical core.

    Weights are packed at the next call that the runner serves, torch's own leave memory, and they
    are packed again when they have changed. Calls that need transformers, for gradients for
    example, run there and say once why.

    Raises OptionError for another kind of model and for options that are not known, and ConfigError
    or UnsupportedError for a configuration or a quantization that the runner does not have.
    """
    base = _base(model)
    config = config_of(base)
    stored = next((each for each in base.modules() if isinstance(each, Packed)), None)
    scheme = None if stored is None else base.config.quantization_config.scheme
    scheme = agree(quantization, scheme, "the model")
    threads = None if num_threads is None else check_threads(num_threads)
    options = Options(scheme, _device_name(device), threads)
    if device_of(base, options).type == "cpu":
        matrix_layouts(config, "float32", scheme)
    enlist(base, options)
    return model


def _device_name(device: str | torch.device | None) -> str | None:
    if device is None:
        return None
    name = str(device)
    if not isinstance(device, (str, torch.device)) or not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise OptionError(
            f"device = {show(name)} is not known; use 'cpu', 'cuda' or 'cuda:<index>'"
        )
    if name != "cpu":
        from gpt2fast.runners.cuda.device import gpu

        gpu(name)
    return name


def restore(model: Any) -> Any:
    """Undo ``accelerate``; returns ``model``."""
    dismiss(_base(model))
    return model


def _base(model: Any) -> Any:
    """The model itself, or the one that PEFT has wrapped."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    if not isinstance(base, tuple(CLASSES)):
        raise OptionError(
            f"{show(type(base).__name__)} is none of transformers' GPT-2 classes; give one of "
            f"{', '.join(kind.__name__ for kind in CLASSES)}"
        )
    return base
