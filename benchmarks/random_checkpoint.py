"""Writes GPT-2 checkpoints of true sizes with random weights: latency does not depend on values."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

SIZES = {  # n_embd, n_layer, n_head
    "gpt2": (768, 12, 12),
    "gpt2-medium": (1024, 24, 16),
    "gpt2-large": (1280, 36, 20),
    "gpt2-xl": (1600, 48, 25),
}


def random_checkpoint(size: str, root: Path) -> Path:
    """An HF directory of ``size`` under ``root``, one shard a layer; made once, then reused."""
    path = root / f"random-{size}"
    if (path / "config.json").is_file():
        return path
    path.mkdir(parents=True, exist_ok=True)
    width, layers, heads = SIZES[size]
    config = {
        "model_type": "gpt2",
        "architectures": ["GPT2LMHeadModel"],
        "vocab_size": 50257,
        "n_positions": 1024,
        "n_embd": width,
        "n_layer": layers,
        "n_head": heads,
        "bos_token_id": 50256,
        "eos_token_id": 50256,
    }
    rng = np.random.default_rng(0)
    shards = [_embeddings(rng, width)] + [_layer(rng, width, i) for i in range(layers)]
    weight_map: dict[str, str] = {}
    for i, tensors in enumerate(shards):
        file = f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors"
        save_file(tensors, path / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(tensors, file)
    index = {"metadata": {}, "weight_map": weight_map}
    (path / "model.safetensors.index.json").write_text(json.dumps(index))
    (path / "config.json").write_text(json.dumps(config))  # last: it marks the directory complete
    return path


def _normal(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape, np.float32) * np.float32(0.02)


def _embeddings(rng: np.random.Generator, width: int) -> dict[str, np.ndarray]:
    return {
        "transformer.wte.weight": _normal(rng, 50257, width),
        "transformer.wpe.weight": _normal(rng, 1024, width),
        "transformer.ln_f.weight": np.ones(width, np.float32),
        "transformer.ln_f.bias": np.zeros(width, np.float32),
    }


def _layer(rng: np.random.Generator, width: int, index: int) -> dict[str, np.ndarray]:
    products = {
        "attn.c_attn": (width, 3 * width),
        "attn.c_proj": (width, width),
        "mlp.c_fc": (width, 4 * width),
        "mlp.c_proj": (4 * width, width),
    }
    prefix = f"transformer.h.{index}."
    tensors = {}
    for name, (inputs, outputs) in products.items():
        tensors[f"{prefix}{name}.weight"] = _normal(rng, inputs, outputs)
        tensors[f"{prefix}{name}.bias"] = _normal(rng, outputs)
    for name in ("ln_1", "ln_2"):
        tensors[f"{prefix}{name}.weight"] = np.ones(width, np.float32)
        tensors[f"{prefix}{name}.bias"] = np.zeros(width, np.float32)
    return tensors
