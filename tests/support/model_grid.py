"""Small random models that together cover every flag of the configuration and awkward shapes."""

from __future__ import annotations

from typing import Any

import pytest

from gpt2fast.config.hf_config import SUPPORTED_ACTIVATIONS

# Each entry overrides these. The sizes are odd on purpose: no width here is a multiple of 64.
BASE: dict[str, Any] = {
    "vocab_size": 211,
    "n_positions": 96,
    "n_embd": 48,
    "n_layer": 2,
    "n_head": 3,
}

_SHAPES: dict[str, dict[str, Any]] = {
    "base": {},
    "head20": {"n_embd": 60, "n_head": 3},
    "head7": {"n_embd": 35, "n_head": 5, "vocab_size": 97},
    "head1": {"n_embd": 5, "n_head": 5, "vocab_size": 101},
    "one_head": {"n_embd": 33, "n_head": 1},
    "inner_odd": {"n_inner": 77},
    "inner_small": {"n_inner": 5},
    "one_layer": {"n_layer": 1},
    "deep": {"n_layer": 7, "n_embd": 32, "n_head": 2},
    "vocab1000": {"vocab_size": 1000, "n_embd": 64, "n_head": 4},
}

_FLAGS: dict[str, dict[str, Any]] = {
    "no_scale": {"scale_attn_weights": False, "n_embd": 24},
    "inverse_layer": {"scale_attn_by_inverse_layer_idx": True, "n_layer": 4},
    "inverse_layer_no_scale": {
        "scale_attn_by_inverse_layer_idx": True,
        "scale_attn_weights": False,
        "n_embd": 24,
        "n_layer": 3,
    },
    "reorder": {"reorder_and_upcast_attn": True},
    "reorder_inverse_layer": {
        "reorder_and_upcast_attn": True,
        "scale_attn_by_inverse_layer_idx": True,
        "n_layer": 3,
    },
    "untied": {"tie_word_embeddings": False},
    "epsilon": {"layer_norm_epsilon": 1e-2},
}

_ACTIVATIONS = {
    f"act_{name}": {"activation_function": name, "n_inner": 150}
    for name in sorted(SUPPORTED_ACTIVATIONS)
}

# Keyword arguments of `make_checkpoint` (and of transformers' GPT2Config), one model each.
FLAG_GRID = [
    pytest.param({**BASE, **overrides}, id=name)
    for name, overrides in {**_SHAPES, **_FLAGS, **_ACTIVATIONS}.items()
]

# Layers of their own shapes: `layers` has the heads and MLP neurons of each.
PRUNED: dict[str, Any] = {**BASE, "n_layer": 3, "layers": ((1, 7), (3, 192), (2, 100))}
_PRUNED: dict[str, dict[str, Any]] = {
    "pruned": PRUNED,
    "pruned_head20": {
        **{**BASE, "n_embd": 60, "n_layer": 3, "n_inner": 77},
        **{"scale_attn_by_inverse_layer_idx": True, "tie_word_embeddings": False},
        "layers": ((2, 77), (1, 5), (3, 64)),
    },
    "pruned_heads_alone": {
        **{**BASE, "n_embd": 35, "n_head": 5, "reorder_and_upcast_attn": True},
        "layers": ((2, 140), (2, 140)),
    },
    "pruned_neurons_alone": {
        **{**BASE, "activation_function": "xielu", "n_inner": 150},
        "layers": ((3, 20), (3, 133)),
    },
}
PRUNED_GRID = [pytest.param(fields, id=name) for name, fields in _PRUNED.items()]

# The width, heads and vocabulary of GPT-2 XL in one layer: 0.45 GB, hence apart from the grid.
WIDE: dict[str, Any] = {
    "vocab_size": 50257,
    "n_positions": 128,
    "n_embd": 1600,
    "n_layer": 1,
    "n_head": 25,
}
WIDE_GRID = [pytest.param(WIDE, id="wide")]
