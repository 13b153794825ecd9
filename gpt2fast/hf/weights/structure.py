"""Checks that a network's modules compute what its config says."""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers.activations import ACT2FN
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS as _ATTENTION_FUNCTIONS
from transformers.models.gpt2 import modeling_gpt2
from transformers.pytorch_utils import Conv1D

from gpt2fast.config import ModelConfig
from gpt2fast.errors import UnsupportedError
from gpt2fast.hf.weights.fingerprint import adapter_is_merged, has_adapter
from gpt2fast.hf.weights.packed_modules import PackedConv1D, PackedEmbedding, PackedHead

# Expected classes by the last part of a module's name. The activation depends on the config; any
# other name must be one of _GENERIC.
_EXPECTED: dict[str, tuple[type, ...]] = {
    "wte": (nn.Embedding, PackedEmbedding),
    "wpe": (nn.Embedding,),
    "lm_head": (nn.Linear, PackedHead),
    "mlp": (modeling_gpt2.GPT2MLP,),
    **dict.fromkeys(("ln_1", "ln_2", "ln_f"), (nn.LayerNorm,)),
    **dict.fromkeys(("c_attn", "c_proj", "c_fc"), (Conv1D, PackedConv1D)),
}
_GENERIC = (nn.ModuleList, nn.Dropout, modeling_gpt2.GPT2Block, modeling_gpt2.GPT2Attention)
_ORIGINAL_FORWARDS = {
    kind: vars(kind).get("forward") for kind in (*sum(_EXPECTED.values(), ()), *_GENERIC)
}


def check_structure(network: Any, head: Any, config: ModelConfig) -> None:
    """Raise UnsupportedError, naming the module, if ``network``, a ``GPT2Model``, or ``head``, the
    language-model head on it (or None), does not compute GPT-2 with ``config``."""
    if len(network.h) != config.n_layer:
        raise UnsupportedError(f"it has {len(network.h)} layers, its config says {config.n_layer}")
    for name, module in network.named_children():
        _check_tree(name, module, config)
    if head is not None:
        _check_tree("lm_head", head, config)


def attention_fallback_reason(config: Any) -> str | None:
    """Which setting of ``config``, a transformers config, changes GPT-2's attention; None if none
    does."""
    if getattr(config, "is_causal", True) is False:
        return "is_causal = False lets tokens see those behind them"
    name = getattr(config, "_attn_implementation", None)
    function = None if name in (None, "eager") else _ATTENTION_FUNCTIONS.get(name)
    if name in (None, "eager") or getattr(function, "__module__", "").startswith("transformers."):
        return None
    return f"the attention is {name!r}, which is not one of transformers"


def _is_patched(kind: Any) -> bool:
    """Whether the ``forward`` of a module class was monkey-patched."""
    forward = kind.forward
    if kind is nn.ModuleList:  # has no forward of its own
        return False
    return (
        forward.__module__ != kind.__module__
        or _ORIGINAL_FORWARDS.get(kind, forward) is not forward
    )


def _check_tree(name: str, module: Any, config: ModelConfig) -> None:
    if has_adapter(module):
        if not adapter_is_merged(module):
            raise UnsupportedError(
                "it has adapters that are not merged; call merge_adapter() or merge_and_unload() "
                "of the PEFT model"
            )
        module = module.base_layer
    _check(name, module, config)
    for child, inner in module.named_children():
        _check_tree(f"{name}.{child}", inner, config)


def _check(name: str, module: Any, config: ModelConfig) -> None:
    last = name.rpartition(".")[2]
    kinds = (
        (type(ACT2FN[config.activation_function]),)
        if last == "act"
        else _EXPECTED.get(last, _GENERIC)
    )
    if type(module) not in kinds:
        raise UnsupportedError(f"{name} is a {type(module).__name__}, which GPT-2 has not there")
    if "forward" in module.__dict__ or _is_patched(type(module)):
        raise UnsupportedError(f"{name} has a forward of its own")
    if isinstance(module, modeling_gpt2.GPT2Attention):
        _check_attention(name, module, config)
    if isinstance(module, nn.LayerNorm) and module.eps != config.layer_norm_epsilon:
        raise UnsupportedError(
            f"{name} has eps = {module.eps}, its config says {config.layer_norm_epsilon}"
        )
    if isinstance(module, nn.Linear) and module.bias is not None:
        raise UnsupportedError(f"{name} has a bias")
    if isinstance(module, nn.Embedding) and module.max_norm is not None:
        raise UnsupportedError(f"{name} has a max_norm")


def _check_attention(name: str, module: Any, config: ModelConfig) -> None:
    scale = module.head_dim**-0.5 if config.scale_attn_weights else 1.0
    if config.scale_attn_by_inverse_layer_idx:
        scale /= module.layer_idx + 1
    expected = {
        "scale_attn_weights": config.scale_attn_weights,
        "scale_attn_by_inverse_layer_idx": config.scale_attn_by_inverse_layer_idx,
        "is_causal": True,
        "scaling": scale,
    }
    for field, value in expected.items():
        if getattr(module, field, value) != value:
            raise UnsupportedError(
                f"{name} has {field} = {getattr(module, field)}, its config says {value}"
            )
