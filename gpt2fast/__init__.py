"""gpt2fast runs GPT-2-family models: exact, at the limit of the machine, without torch on a CPU.

Public names: ``LLM``, ``AsyncLLM``, ``SamplingParams``, ``BeamSearchParams``, the outputs and the
errors; ``accelerate`` and ``restore`` for models of transformers.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gpt2fast.engine.async_llm import AsyncLLM
    from gpt2fast.engine.llm import LLM
    from gpt2fast.engine.outputs import (
        CompletionOutput,
        Delta,
        Logprob,
        RequestMetrics,
        RequestOutput,
    )
    from gpt2fast.errors import (
        CacheExhaustedError,
        CheckpointError,
        ConfigError,
        ContextOverflowError,
        GPT2FastError,
        MissingDependencyError,
        NotAcceleratedError,
        OptionError,
        RequestError,
        UnsupportedError,
    )
    from gpt2fast.hf import accelerate, restore
    from gpt2fast.sampling_params import BeamSearchParams, SamplingParams

__all__ = [
    "LLM",
    "AsyncLLM",
    "BeamSearchParams",
    "CacheExhaustedError",
    "CheckpointError",
    "CompletionOutput",
    "ConfigError",
    "ContextOverflowError",
    "Delta",
    "GPT2FastError",
    "Logprob",
    "MissingDependencyError",
    "NotAcceleratedError",
    "OptionError",
    "RequestError",
    "RequestMetrics",
    "RequestOutput",
    "SamplingParams",
    "UnsupportedError",
    "accelerate",
    "restore",
]

# Looked up on first use: `import gpt2fast` loads neither numpy nor the compiled core.
_HOMES = {
    "LLM": "gpt2fast.engine.llm",
    "AsyncLLM": "gpt2fast.engine.async_llm",
    "Delta": "gpt2fast.engine.outputs",
    "BeamSearchParams": "gpt2fast.sampling_params",
    "SamplingParams": "gpt2fast.sampling_params",
    "CompletionOutput": "gpt2fast.engine.outputs",
    "Logprob": "gpt2fast.engine.outputs",
    "RequestMetrics": "gpt2fast.engine.outputs",
    "RequestOutput": "gpt2fast.engine.outputs",
    "accelerate": "gpt2fast.hf",
    "restore": "gpt2fast.hf",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'gpt2fast' has no attribute {name!r}")
    value = getattr(import_module(_HOMES.get(name, "gpt2fast.errors")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
