"""Hooks and dropout: reasons to call a network's modules one by one."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.nn.modules import module as torch_module

from gpt2fast.hf.weights.fingerprint import iter_modules

_OUTPUT_CAPTURING = "transformers.utils.output_capturing"


def hook_fallback_reason(*roots: Any) -> str | None:
    """Why the modules below ``roots`` must run in torch; None if the backend may skip them."""
    if torch_module._global_forward_hooks or torch_module._global_forward_pre_hooks:
        return "there are hooks of all modules"
    for module in iter_modules(*roots):
        own = module.__dict__
        if own["_forward_hooks"] or own["_forward_pre_hooks"]:
            hooks = (*own["_forward_hooks"].values(), *own["_forward_pre_hooks"].values())
            # transformers does not remove its own after it has recorded hidden states.
            if any(getattr(hook, "__module__", "") != _OUTPUT_CAPTURING for hook in hooks):
                return "a module has hooks"
        if own["training"] and isinstance(module, nn.Dropout) and module.p > 0:
            return "a dropout layer is in training"
    return None
