"""A model, or a part of one, as an entry of a journal.

Tensors are the network's parameters by their names, and the integers and scales of what is
quantized as ``NAME:integers`` (N, K) int8 and ``NAME:scales`` (N, G) float32.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gpt2fast.compress.state.journal import TensorJournal
from gpt2fast.compress.state.model import Model, QuantizedMatrix, frozen
from gpt2fast.config import ModelConfig
from gpt2fast.files.journal import damage_named
from gpt2fast.model.gpt2 import GPT2
from gpt2fast.quantization import MatrixFormat


def save_snapshot(model: Model, journal: TensorJournal, name: str) -> None:
    """Record the whole model, in place of one of that ``name``."""
    facts = {
        "config": model.config.to_dict(),
        "history": model.history,
        "stored": model.stored,
        "formats": _formats(model.matrices),
    }
    journal.keep(name, _tensors(model, ""), facts)


def load_snapshot(journal: TensorJournal, name: str, source: Path) -> Model | None:
    """The model that was recorded as ``name``, None if there is none. ``source`` has its tokenizer.

    Raises CheckpointError, naming its directory, where it is damaged.
    """
    if (place := journal.find(name)) is None or (entry := journal.recall(name)) is None:
        return None
    tensors, facts = entry
    with damage_named(place):
        matrices = _pop_matrices(tensors, facts["formats"])
        network = GPT2(ModelConfig.from_dict(facts["config"], str(place)))
        network.load_state_dict(tensors)
        return Model(
            frozen(network), source, matrices, list(facts["history"]), str(facts["stored"])
        )


def record_part(model: Model, journal: TensorJournal, prefix: str) -> None:
    """The parameters and matrices whose names begin with ``prefix``, such as ``h.3.``, have their
    final values: record them under that name."""
    formats = _formats({k: m for k, m in model.matrices.items() if k.startswith(prefix)})
    journal.keep(prefix, _tensors(model, prefix), {"formats": formats})


def restore_parts(model: Model, journal: TensorJournal) -> list[str]:
    """Put back, bit for bit, all that ``record_part`` has recorded; returns the prefixes.

    Raises CheckpointError, naming the directory of a part that is damaged.
    """
    state = model.network.state_dict()
    for prefix in (prefixes := journal.names()):
        if (place := journal.find(prefix)) is None or (entry := journal.recall(prefix)) is None:
            continue
        tensors, facts = entry
        with damage_named(place):
            model.matrices |= _pop_matrices(tensors, facts["formats"])
            for name, value in tensors.items():
                state[name].copy_(value)
    return prefixes


def _tensors(model: Model, prefix: str) -> dict[str, Tensor]:
    tensors = {k: v for k, v in model.network.state_dict().items() if k.startswith(prefix)}
    for name, matrix in model.matrices.items():
        if name.startswith(prefix):
            tensors[f"{name}:integers"] = matrix.integers.to(torch.int8)
            tensors[f"{name}:scales"] = matrix.scales.float()
    return tensors


def _formats(matrices: Mapping[str, QuantizedMatrix]) -> dict[str, list[Any]]:
    """Name and group size of each matrix's format, as JSON."""
    return {name: [m.format.name, m.format.group_size] for name, m in matrices.items()}


def _pop_matrices(
    tensors: dict[str, Tensor], formats: Mapping[str, list[Any]]
) -> dict[str, QuantizedMatrix]:
    """Take the quantized matrices out of ``tensors``."""
    return {
        name: QuantizedMatrix(
            tensors.pop(f"{name}:integers"), tensors.pop(f"{name}:scales"), MatrixFormat(*fields)
        )
        for name, fields in formats.items()
    }
