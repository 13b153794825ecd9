"""transformers' quantizer interface for directories that gpt2fast quantized or compressed.

``from_pretrained`` of any of transformers' classes finds it by ``quant_method`` "gpt2fast" in
config.json.
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
from gpt2fast.hf.modeling.classes import CLASSES, Accelerated, attach
from gpt2fast.hf.weights.layer_shapes import set_layer_shapes
from gpt2fast.hf.weights.module_checkpoint import model_config
from gpt2fast.hf.weights.packed_modules import dequantize_modules, insert_packed_modules
from gpt2fast.quantization import HEAD, METHOD, Quantization


@register_quantization_config(METHOD)
class PanelConfig(QuantizationConfigMixin):
    """The ``quantization_config`` of a config.json that gpt2fast wrote."""

    def __init__(self, **fields: Any) -> None:
        self.quant_method = METHOD
        self.scheme = Quantization.from_config({**fields, "quant_method": METHOD}, "config.json")

    def to_dict(self) -> dict[str, Any]:
        """As in config.json."""
        return self.scheme.to_config()

    def to_diff_dict(self) -> dict[str, Any]:
        """As in config.json."""
        return self.to_dict()


@register_quantizer(METHOD)
class PanelQuantizer(HfQuantizer):
    """Inserts packed modules into a network before its weights are loaded. It does not quantize:
    gpt2fast's commands do."""

    def validate_environment(self, *args: Any, **kwargs: Any) -> None:
        """Raises OptionError for a model that is not quantized yet."""
        if not self.pre_quantized:
            raise OptionError(
                "gpt2fast's quantization_config loads directories that gpt2fast quantize wrote, "
                "and this is a model of floats; leave it out and give quantization='int8' to "
                "from_pretrained of gpt2fast.hf's classes, or call "
                "gpt2fast.accelerate(model, quantization='int8')"
            )

    def update_dtype(self, dtype: Any) -> torch.dtype:
        """float32, the dtype of the weights that are not quantized."""
        return torch.float32

    update_torch_dtype = update_dtype

    def _process_model_before_weight_loading(self, model: Any, **kwargs: Any) -> None:
        network = model if isinstance(model, transformers.GPT2Model) else _network_in(model)
        tied = bool(model.config.tie_word_embeddings) or not hasattr(model, "lm_head")
        config = replace(model_config(model), tie_word_embeddings=tied)
        set_layer_shapes(network, config)  # transformers 4 ignores per-layer shapes
        insert_packed_modules(model, network, config, self.quantization_config.scheme)

    def update_missing_keys(self, model: Any, missing_keys: list[str], prefix: str) -> list[str]:
        """For transformers 4: a tied head is not reported as missing."""
        tied = [HEAD] if model.config.tie_word_embeddings else []
        return [key for key in missing_keys if key not in tied]

    def _process_model_after_weight_loading(self, model: Any, **kwargs: Any) -> Any:
        """Attach a backend to a model of transformers' own classes, as its Auto classes make
        them."""
        if isinstance(model, tuple(CLASSES)):
            if not isinstance(model, Accelerated):
                attach(model)
        else:
            warnings.warn(
                f"{type(model).__name__} is none of transformers' GPT-2 classes, and so runs in "
                "torch, which dequantizes its weights at each call; the network inside can run on "
                "gpt2fast's runner: gpt2fast.accelerate(model.transformer)",
                stacklevel=2,
            )
        return model

    def _dequantize(self, model: Any, dtype: Any = None) -> Any:
        dequantize_modules(model, _floating(dtype))
        return model

    def get_state_dict_and_metadata(self, model: Any, *args: Any, **kwargs: Any) -> Any:
        """For ``save_pretrained``: the file metadata that gpt2fast requires."""
        return None, panel_metadata(self.quantization_config.scheme)

    def is_serializable(self, *args: Any, **kwargs: Any) -> bool:
        """True: panels are saved as they are."""
        return True

    @property
    def is_trainable(self) -> bool:
        """False: integers have no gradients."""
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
    """``dtype`` or the one of that name; float32 for None."""
    resolved = (
        getattr(torch, dtype.removeprefix("torch."), None) if isinstance(dtype, str) else dtype
    )
    if dtype is None:
        return torch.float32
    if not isinstance(resolved, torch.dtype) or not resolved.is_floating_point:
        raise OptionError(f"dtype = {show(dtype)} is not known; use torch.float32, for example")
    return resolved
