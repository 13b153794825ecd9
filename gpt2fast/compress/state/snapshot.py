"""A model between two passes on the disk, so that what is done needs not be done again.

A snapshot is a directory that appears whole, by one rename: ``network.safetensors`` (parameters),
``matrices.safetensors`` (integers and scales of what is quantized) and ``state.json``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from gpt2fast.compress.state.model import Model, QuantizedMatrix, frozen
from gpt2fast.config import ModelConfig
from gpt2fast.files.atomic import staged_directory
from gpt2fast.files.journal import damage_named
from gpt2fast.files.json_file import read_json_object
from gpt2fast.model.gpt2 import GPT2
from gpt2fast.quantization import MatrixFormat

_STATE, _NETWORK, _MATRICES = "state.json", "network.safetensors", "matrices.safetensors"


def save_snapshot(model: Model, directory: Path) -> None:
    """Write ``directory``, in place of one that is there."""
    with staged_directory(directory, replace=True) as stage:
        save_file(dict(model.network.state_dict()), stage / _NETWORK)
        save_file(pack_matrices(model.matrices), stage / _MATRICES)
        state = {
            "config": model.config.to_dict(),
            "formats": formats_of(model.matrices),
            "history": model.history,
            "stored": model.stored,
        }
        (stage / _STATE).write_text(json.dumps(state), encoding="utf-8")


def load_snapshot(directory: Path, source: Path) -> Model | None:
    """The model in ``directory``, None if there is none. ``source`` has its tokenizer.

    Raises CheckpointError, naming the directory, where it is damaged.
    """
    if not (directory / _STATE).is_file():
        return None
    with damage_named(directory):
        state = read_json_object(directory / _STATE)
        network = GPT2(ModelConfig.from_dict(state["config"], str(directory / _STATE)))
        network.load_state_dict(load_file(directory / _NETWORK))
        matrices = unpack_matrices(load_file(directory / _MATRICES), state["formats"])
        history, stored = list(state["history"]), str(state["stored"])
        return Model(frozen(network), source, matrices, history, stored)


def pack_matrices(matrices: dict[str, QuantizedMatrix]) -> dict[str, Tensor]:
    """The tensors of quantized matrices by name, as a file holds them."""
    tensors = {}
    for name, matrix in matrices.items():
        tensors[f"{name}:integers"] = matrix.integers.to(torch.int8).contiguous()
        tensors[f"{name}:scales"] = matrix.scales.float().contiguous()
    return tensors


def formats_of(matrices: dict[str, QuantizedMatrix]) -> dict[str, list[Any]]:
    """Name and group size of each matrix's format, as JSON."""
    return {name: [m.format.name, m.format.group_size] for name, m in matrices.items()}


def unpack_matrices(
    tensors: dict[str, Tensor], formats: dict[str, list[Any]]
) -> dict[str, QuantizedMatrix]:
    """What ``pack_matrices`` packed."""
    return {
        name: QuantizedMatrix(
            tensors[f"{name}:integers"], tensors[f"{name}:scales"], MatrixFormat(*fields)
        )
        for name, fields in formats.items()
    }
