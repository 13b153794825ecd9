"""What ``accelerate`` and ``from_pretrained`` are asked for, checked."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from gpt2fast.errors import OptionError, show
from gpt2fast.hf.weights.module_checkpoint import config_of
from gpt2fast.hf.weights.packed_modules import Packed
from gpt2fast.panel_layout import matrix_layouts
from gpt2fast.quantization import Quantization, agree
from gpt2fast.runners.cpu import check_threads


@dataclass(frozen=True)
class Options:
    """How an accelerated model is run; ``accelerate`` describes each."""

    quantization: Quantization | None = None
    device: str | None = None
    num_threads: int | None = None
    strict: bool = False


def device_of(network: nn.Module, options: Options) -> torch.device:
    """Where the runner of ``network`` is: where it is asked for, else where the weights are."""
    return torch.device(options.device or next(network.parameters()).device)


def check_options(
    quantization: str | None,
    device: str | torch.device | None,
    num_threads: int | None,
    strict: bool,
) -> Options:
    """The options, as ``accelerate`` describes them, before there is a model.

    Raises OptionError for one that is not known."""
    scheme = None if quantization is None else Quantization.parse(quantization)
    threads = None if num_threads is None else check_threads(num_threads)
    if not isinstance(strict, bool):
        raise OptionError(f"strict = {show(strict)} is not known; use True or False")
    return Options(scheme, _device_name(device), threads, strict)


def options_for(
    model: Any,
    quantization: str | None,
    device: str | torch.device | None,
    num_threads: int | None,
    strict: bool,
) -> Options:
    """The options for ``model``, of one of transformers' GPT-2 classes.

    Raises OptionError as ``check_options``, and for a model that is stored in other integers;
    ConfigError or UnsupportedError for a configuration or a quantization that the runner does not
    have."""
    options = check_options(quantization, device, num_threads, strict)
    config = config_of(model)
    scheme = options.quantization
    if any(isinstance(each, Packed) for each in model.modules()):
        scheme = agree(quantization, model.config.quantization_config.scheme, "the model")
        # The modules say what they store, and say it no longer once they are floats again.
        options = Options(None, options.device, options.num_threads, strict)
    if device_of(model, options).type == "cpu":
        matrix_layouts(config, "float32", scheme)
    return options


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
