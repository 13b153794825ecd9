"""A model as a Hugging Face directory that appears whole or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from gpt2fast.checkpoint.checkpoint import QUANTIZATION_FIELD
from gpt2fast.checkpoint.names import HEAD, stored_name
from gpt2fast.checkpoint.packed import panel_metadata
from gpt2fast.checkpoint.resolve import SMALL_FILES
from gpt2fast.checkpoint.safetensors_writer import NewTensor, Written, write_weights
from gpt2fast.config import ModelConfig
from gpt2fast.files.atomic import check_out, staged_directory
from gpt2fast.files.disk import check_room
from gpt2fast.files.json_file import read_json_object, write_json
from gpt2fast.quantization import Quantization

MAX_SHARD_BYTES = 2 * 10**9
_CONFIG = "config.json"
_SPARE_BYTES = 2**20  # for the header and config.json


def save_quantized(
    out: Path,
    source: Path,
    config: ModelConfig,
    quantization: Quantization,
    tensors: Sequence[NewTensor],
    written: Written = lambda num_bytes: None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """Write the directory ``out``: ``tensors``, the fields of ``source``'s config.json with a
    ``quantization_config``, and copies of its tokenizer and generation files.

    Everything is written beside ``out`` and gets its name by one rename. Raises OptionError where
    ``out`` holds something already, cannot be written, or the disk is too small.
    """
    fields = read_json_object(source / _CONFIG)
    fields["tie_word_embeddings"] = config.tie_word_embeddings
    fields[QUANTIZATION_FIELD] = quantization.to_config()
    save_checkpoint(
        out, source, fields, tensors, panel_metadata(quantization), written, max_shard_bytes
    )


def save_checkpoint(
    out: Path,
    source: Path,
    fields: dict[str, Any],
    tensors: Sequence[NewTensor],
    metadata: dict[str, str],
    written: Written = lambda num_bytes: None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """The same with all of config.json in ``fields`` and ``metadata`` in the files of weights."""
    check_out(out)
    with staged_directory(out) as stage:
        small = [source / name for name in SMALL_FILES if name != _CONFIG]
        small = [file for file in small if file.is_file()]
        needed = sum(tensor.num_bytes for tensor in tensors) + _SPARE_BYTES
        needed += sum(file.stat().st_size for file in small)
        check_room(stage, needed, str(out))
        for file in small:
            shutil.copyfile(file, stage / file.name)
        write_weights(stage, _as_stored(tensors), metadata, max_shard_bytes, written)
        write_json(stage / _CONFIG, fields)


def _as_stored(tensors: Sequence[NewTensor]) -> Sequence[NewTensor]:
    """Beside a head the network's names have their prefix: transformers 4 refuses them without."""
    if all(tensor.name != HEAD for tensor in tensors):
        return tensors
    return [replace(tensor, name=stored_name(tensor.name)) for tensor in tensors]
