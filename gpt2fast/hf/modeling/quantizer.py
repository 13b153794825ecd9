"""transformers' loading and saving of directories that gpt2fast quantized or compressed.

``quant_method`` "gpt2fast" in a config.json leads ``from_pretrained`` of any of transformers'
classes here, as other methods lead to their own quantizers.
"""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import torch
import transformers
from transformers.quantizers import HfQuantizer
from transformers.quantizers.auto import register_quantization_config, register_quantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from gpt2fast.checkpoint.packed import panel_metadata
from gpt2fast.errors import OptionError, UnsupportedError, show
from gpt2fast.hf.modeling.classes import CLASSES, Accelerated, enlist
from gpt2fast.hf.weights.layer_shapes import give_shapes
from gpt2fast.hf.weights.module_checkpoint import config_of
from gpt2fast.hf.weights.packed_modules import pack_modules, unpack_modules
from gpt2fast.quantization import HEAD, METHOD, Quantization


@register_quantization_config(METHOD)
class PanelConfig(QuantizationConfigMixin):
    """The ``quantization_config`` of a config.json that gpt2fast wrote."""

    def __init__(self, **fields: Any) -> None:
        self.quant_method = METHOD
        self.scheme = Quantization.from_config({**fields, "quant_method": METHOD}, "config.json")

    def to_dict(self) -> dict[str, Any]:
        """What config.json has."""
        return self.scheme.to_config()

    def to_diff_dict(self) -> dict[str, Any]:
        """What config.json has."""
        return self.to_dict()


@register_quantizer(METHOD)
class PanelQuantizer(HfQuantizer):
    """Gives a network the modules that hold panels. Integers are made by gpt2fast's commands."""

    def validate_environment(self, *args: Any, **kwargs: Any) -> None:
        """Raises OptionError where a model of floats would have to be quantized here."""
        if not self.pre_quantized:
            raise OptionError(
                "a quantization_config of gpt2fast's reads what gpt2fast quantize has written, and "
                "this is a model of floats; leave it out and give quantization='int8' to "
                "from_pretrained of gpt2fast.hf's classes, or call "
                "gpt2fast.accelerate(model, quantization='int8')"
            )

    def update_dtype(self, dtype: Any) -> torch.dtype:
        """What is not integers stays float32, as it is stored."""
        return torch.float32

    update_torch_dtype = update_dtype

    def _process_model_before_weight_loading(self, model: Any, **kwargs: Any) -> None:
        network = model if isinstance(model, transformers.GPT2Model) else _network_in(model)
        tied = bool(model.config.tie_word_embeddings) or not hasattr(model, "lm_head")
        config = replace(config_of(model), tie_word_embeddings=tied)
        give_shapes(network, config)  # transformers 4 builds all layers alike
        pack_modules(model, network, config, self.quantization_config.scheme)

    def update_missing_keys(self, model: Any, missing_keys: list[str], prefix: str) -> list[str]:
        """For transformers 4: a tied head is not missing."""
        tied = [HEAD] if model.config.tie_word_embeddings else []
        return [key for key in missing_keys if key not in tied]

    def _process_model_after_weight_loading(self, model: Any, **kwargs: Any) -> Any:
        """Classes of transformers', which its Auto classes make, run the integers on our runner."""
        if isinstance(model, tuple(CLASSES)):
            if not isinstance(model, Accelerated):
                enlist(model)
        else:
            warnings.warn(
                f"{type(model).__name__} is none of transformers' GPT-2 classes, and so runs its "
                "integers in torch, which makes floats of them at each call; its network can run "
                "on gpt2fast's runner: gpt2fast.accelerate(model.transformer)",
                stacklevel=2,
            )
        return model

    def _dequantize(self, model: Any, dtype: Any = None) -> Any:
        unpack_modules(model, _floating(dtype))
        return model

    def get_state_dict_and_metadata(self, model: Any, *args: Any, **kwargs: Any) -> Any:
        """For ``save_pretrained``: what gpt2fast asks of a file of panels."""
        return None, panel_metadata(self.quantization_config.scheme)

    def is_serializable(self, *args: Any, **kwargs: Any) -> bool:
        """Panels are saved as they are."""
        return True

    @property
    def is_trainable(self) -> bool:
        """Integers are not."""
        return False


def _network_in(model: Any) -> Any:
    network = getattr(model, "transformer", None)
    if not isinstance(network, transformers.GPT2Model):
        raise UnsupportedError(
            f"{type(model).__name__} has no GPT-2 inside, and gpt2fast quantizes nothing "
            "else; load the directory with one of transformers' GPT-2 classes or an Auto class"
        )
    return network


def _floating(dtype: Any) -> torch.dtype:
    """``dtype``, or the one that a config.json calls so; float32 for None."""
    found = getattr(torch, dtype.removeprefix("torch."), None) if isinstance(dtype, str) else dtype
    if dtype is None:
        return torch.float32
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise OptionError(f"dtype = {show(dtype)} is not known; use torch.float32, for example")
    return found
