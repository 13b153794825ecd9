"""transformers' GPT-2, faster: the same classes and calls on gpt2fast's runner."""

from __future__ import annotations

from gpt2fast.errors import MissingDependencyError

try:
    import torch  # noqa: F401
    import transformers  # noqa: F401
except ImportError:
    raise MissingDependencyError(
        "gpt2fast.hf needs transformers and PyTorch: pip install 'gpt2fast[hf]'"
    ) from None

from transformers import (  # so that only the module's name changes in a user's import
    GPT2Config,
    GPT2PreTrainedModel,
    GPT2Tokenizer,
    GPT2TokenizerFast,
)

from gpt2fast.hf.backend.last_run import LastRun
from gpt2fast.hf.backend.paged_cache import NativeCache
from gpt2fast.hf.modeling.accelerate import accelerate, restore
from gpt2fast.hf.modeling.models import (
    GPT2DoubleHeadsModel,
    GPT2ForQuestionAnswering,
    GPT2ForSequenceClassification,
    GPT2ForTokenClassification,
    GPT2LMHeadModel,
    GPT2Model,
)
from gpt2fast.hf.modeling.quantizer import PanelConfig, PanelQuantizer
from gpt2fast.hf.pickle_paths import register_earlier_paths

register_earlier_paths()

__all__ = [
    "GPT2Config",
    "GPT2DoubleHeadsModel",
    "GPT2ForQuestionAnswering",
    "GPT2ForSequenceClassification",
    "GPT2ForTokenClassification",
    "GPT2LMHeadModel",
    "GPT2Model",
    "GPT2PreTrainedModel",
    "GPT2Tokenizer",
    "GPT2TokenizerFast",
    "LastRun",
    "NativeCache",
    "PanelConfig",
    "PanelQuantizer",
    "accelerate",
    "restore",
]
