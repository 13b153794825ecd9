"""transformers' loading and saving of directories that gpt2fast quantized or compressed.

``quant_method`` "gpt2fast" in a config.json leads ``from_pretrained`` of any of transformers'
classes here, as other methods lead to their own quantizers.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import transformers
from transformers.quantizers import HfQuantizer
from transformers.quantizers.auto import register_quantization_config, register_quantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from gpt2fast.checkpoint.packed import panel_metadata
from gpt2fast.errors import OptionError
from gpt2fast.hf.packed import pack_modules, unpack_modules
from gpt2fast.hf.source import config_of
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
                "from_pretrained cannot quantize with gpt2fast; load the model and call "
                "gpt2fast.accelerate(model, quantization='int8'), or write a quantized one with "
                "gpt2fast quantize"
            )

    def update_dtype(self, dtype: Any) -> torch.dtype:
        """What is not integers stays float32, as it is stored."""
        return torch.float32

    update_torch_dtype = update_dtype

    def _process_model_before_weight_loading(self, model: Any, **kwargs: Any) -> None:
        network = model if isinstance(model, transformers.GPT2Model) else model.transformer
        tied = bool(model.config.tie_word_embeddings) or not hasattr(model, "lm_head")
        config = replace(config_of(model), tie_word_embeddings=tied)
        pack_modules(model, network, config, self.quantization_config.scheme)

    def update_missing_keys(self, model: Any, missing_keys: list[str], prefix: str) -> list[str]:
        """For transformers 4: a tied head is not missing."""
        tied = [HEAD] if model.config.tie_word_embeddings else []
        return [key for key in missing_keys if key not in tied]

    def _process_model_after_weight_loading(self, model: Any, **kwargs: Any) -> Any:
        return model

    def _dequantize(self, model: Any, dtype: Any = None) -> Any:
        unpack_modules(model, dtype or torch.float32)
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
