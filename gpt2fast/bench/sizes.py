"""GPT-2 checkpoints of true sizes with random weights: latency does not depend on their values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpt2fast.files.atomic import staged_directory
from gpt2fast.files.json_file import write_json

SIZES = {  # n_embd, n_layer, n_head
    "gpt2": (768, 12, 12),
    "gpt2-medium": (1024, 24, 16),
    "gpt2-large": (1280, 36, 20),
    "gpt2-xl": (1600, 48, 25),
}
_VOCABULARY, _POSITIONS = 50257, 1024

Tensors = dict[str, NDArray[np.float32]]


def random_checkpoint(size: str, root: Path) -> Path:
    """A Hugging Face directory ``root/random-<size>`` in float32, one shard a layer.

    Made once, then found again; a write that is interrupted leaves nothing under that name.
    """
    path = random_path(size, root)
    if (path / "config.json").is_file():
        return path
    with staged_directory(path) as stage:
        _write(size, stage)
    return path


def random_path(size: str, root: Path) -> Path:
    """Where ``random_checkpoint`` puts a size."""
    return root / f"random-{size}"


def config_fields(size: str) -> dict[str, Any]:
    """The content of its ``config.json``."""
    width, layers, heads = SIZES[size]
    return {
        "model_type": "gpt2",
        "architectures": ["GPT2LMHeadModel"],
        "vocab_size": _VOCABULARY,
        "n_positions": _POSITIONS,
        "n_embd": width,
        "n_layer": layers,
        "n_head": heads,
        "bos_token_id": _VOCABULARY - 1,
        "eos_token_id": _VOCABULARY - 1,
    }


def _write(size: str, path: Path) -> None:
    from safetensors.numpy import save_file

    width, layers, _ = SIZES[size]
    rng = np.random.default_rng(0)
    weight_map: dict[str, str] = {}
    for i in range(layers + 1):
        file = f"model-{i + 1:05d}-of-{layers + 1:05d}.safetensors"
        tensors = _layer(rng, width, i - 1) if i else _embeddings(rng, width)
        save_file(tensors, path / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(tensors, file)
    index = {"metadata": {}, "weight_map": weight_map}
    write_json(path / "model.safetensors.index.json", index)
    write_json(path / "config.json", config_fields(size))


def _normal(rng: np.random.Generator, *shape: int) -> NDArray[np.float32]:
    values: NDArray[np.float32] = rng.standard_normal(shape, np.float32)
    values *= np.float32(0.02)
    return values


def _embeddings(rng: np.random.Generator, width: int) -> Tensors:
    return {
        "transformer.wte.weight": _normal(rng, _VOCABULARY, width),
        "transformer.wpe.weight": _normal(rng, _POSITIONS, width),
        "transformer.ln_f.weight": np.ones(width, np.float32),
        "transformer.ln_f.bias": np.zeros(width, np.float32),
    }


def _layer(rng: np.random.Generator, width: int, index: int) -> Tensors:
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
