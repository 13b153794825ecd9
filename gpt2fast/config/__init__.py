"""What a GPT-2 is, read from ``config.json`` and validated."""

from gpt2fast.config.model import (
    ACTIVATION_PARAMETERS,
    MAX_LAYERS,
    MAX_PARAMETERS,
    LayerShape,
    ModelConfig,
)

__all__ = ["ACTIVATION_PARAMETERS", "MAX_LAYERS", "MAX_PARAMETERS", "LayerShape", "ModelConfig"]
