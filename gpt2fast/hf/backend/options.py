"""Validation of the options of ``accelerate`` and ``from_pretrained``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from gpt2fast.errors import OptionError, show
from gpt2fast.hf.weights.module_checkpoint import model_config
from gpt2fast.hf.weights.packed_modules import PackedModule
from gpt2fast.quantization import Quantization, agree
from gpt2fast.quantization.panel_layout import matrix_layouts
from gpt2fast.runners.cpu import check_threads


@dataclass(frozen=True)
class Options:
    """How an accelerated model runs; ``accelerate`` describes each field."""

    quantization: Quantization | None = None
    device: str | None = None
    num_threads: int | None = None
    strict: bool = False


def runner_device(network: nn.Module, options: Options) -> torch.device:
    """The runner's device: the one in ``options``, by default that of the weights."""
    return torch.device(options.device or next(network.parameters()).device)


def check_options(
    quantization: str | None,
    device: str | torch.device | None,
    num_threads: int | None,
    strict: bool,
) -> Options:
    """Validate options that do not depend on the model.

    Raises OptionError for an unknown value."""
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
    """Validate options for ``model``, an instance of one of transformers' GPT-2 classes.

    Raises OptionError as ``check_options`` does, and if the model is stored with another
    quantization; ConfigError or UnsupportedError for a config or a quantization that the runner
    does not support."""
    options = check_options(quantization, device, num_threads, strict)
    config = model_config(model)
    scheme = options.quantization
    if any(isinstance(each, PackedModule) for each in model.modules()):
        scheme = agree(quantization, model.config.quantization_config.scheme, "the model")
        # The backend reads the scheme from the packed modules, which dequantize() may replace.
        options = Options(None, options.device, options.num_threads, strict)
    if runner_device(model, options).type == "cpu":
        matrix_layouts(config, "float32", scheme)  # raises if a matrix does not fit the scheme
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
