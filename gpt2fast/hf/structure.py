"""Whether a network's modules compute what its configuration says."""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers.activations import ACT2FN
from transformers.models.gpt2 import modeling_gpt2
from transformers.pytorch_utils import Conv1D

from gpt2fast.config import ModelConfig
from gpt2fast.errors import UnsupportedError
from gpt2fast.hf.packed import PackedConv1D, PackedEmbedding, PackedHead
from gpt2fast.hf.stamp import is_adapted, is_merged

# What may stand at the last part of a name; the activation comes from the config, and all else
# is one of the plain ones.
_KINDS: dict[str, tuple[type, ...]] = {
    "wte": (nn.Embedding, PackedEmbedding),
    "wpe": (nn.Embedding,),
    "lm_head": (nn.Linear, PackedHead),
    "mlp": (modeling_gpt2.GPT2MLP,),
    **dict.fromkeys(("ln_1", "ln_2", "ln_f"), (nn.LayerNorm,)),
    **dict.fromkeys(("c_attn", "c_proj", "c_fc"), (Conv1D, PackedConv1D)),
}
_PLAIN = (nn.ModuleList, nn.Dropout, modeling_gpt2.GPT2Block, modeling_gpt2.GPT2Attention)


def check_structure(network: Any, head: Any, config: ModelConfig) -> None:
    """Raises UnsupportedError, naming the module, where ``network``, a ``GPT2Model``, or the
    ``head`` of a language model on it (or None) computes something else than GPT-2 with ``config``.
    """
    if len(network.h) != config.n_layer:
        raise UnsupportedError(f"it has {len(network.h)} layers, its config says {config.n_layer}")
    for name, module in network.named_children():
        _check_tree(name, module, config)
    if head is not None:
        _check_tree("lm_head", head, config)


def _check_tree(name: str, module: Any, config: ModelConfig) -> None:
    if is_adapted(module):
        if not is_merged(module):
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
        (type(ACT2FN[config.activation_function]),) if last == "act" else _KINDS.get(last, _PLAIN)
    )
    if type(module) not in kinds:
        raise UnsupportedError(f"{name} is a {type(module).__name__}, which GPT-2 has not there")
    if "forward" in module.__dict__:
        raise UnsupportedError(f"{name} has a forward of its own")
    if isinstance(module, nn.LayerNorm) and module.eps != config.layer_norm_epsilon:
        raise UnsupportedError(
            f"{name} has eps = {module.eps}, its config says {config.layer_norm_epsilon}"
        )
    if isinstance(module, nn.Linear) and module.bias is not None:
        raise UnsupportedError(f"{name} has a bias")
    if isinstance(module, nn.Embedding) and module.max_norm is not None:
        raise UnsupportedError(f"{name} has a max_norm")
