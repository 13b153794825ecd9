"""Structured pruning by hand: the same function once as a stock transformers model whose removed
heads and neurons write zeros, and once as the physically smaller checkpoint."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gpt2fast.config import LayerShape, ModelConfig


def prune(model: Any, layers: Sequence[tuple[int, int]], path: Path, seed: int = 0) -> None:
    """Zero what is removed from ``model`` (a ``GPT2LMHeadModel``), and write the directory ``path``
    with layers of (heads, neurons); which of them stay is drawn at random."""
    import torch
    from safetensors.torch import save_file

    config = ModelConfig.from_dict(model.config.to_dict(), "the model's config")
    config = config.with_layers(LayerShape(*shape) for shape in layers)
    rng, size = np.random.default_rng(seed), config.head_size
    tensors = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    if config.tie_word_embeddings:
        del tensors["lm_head.weight"]
    for index, (heads, inner) in enumerate(layers):
        block, prefix = model.transformer.h[index], f"transformer.h.{index}"
        kept_heads = np.sort(rng.choice(config.n_head, heads, replace=False))
        columns = (kept_heads[:, None] * size + np.arange(size)).ravel()
        neurons = np.sort(rng.choice(block.mlp.c_proj.weight.shape[0], inner, replace=False))
        both = np.concatenate([columns + part * config.n_embd for part in range(3)])
        for name, outputs, inputs in (
            ("attn.c_attn", both, None),
            ("attn.c_proj", None, columns),
            ("mlp.c_fc", neurons, None),
            ("mlp.c_proj", None, neurons),
        ):
            weight, bias = f"{prefix}.{name}.weight", f"{prefix}.{name}.bias"
            if outputs is not None:
                tensors[weight] = tensors[weight][:, outputs].contiguous()
                tensors[bias] = tensors[bias][outputs].contiguous()
                continue
            removed = np.setdiff1d(np.arange(tensors[weight].shape[0]), inputs)
            tensors[weight] = tensors[weight][inputs].contiguous()
            with torch.no_grad():
                model.get_parameter(weight)[removed] = 0.0
    path.mkdir(exist_ok=True)
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    (path / "config.json").write_text(json.dumps(config.to_dict()))
