"""Which files of a directory hold the weights: one file, or shards listed in an index."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from gpt2fast.checkpoint.placeholder import refuse_placeholder
from gpt2fast.checkpoint.safetensors_file import SafetensorsFile
from gpt2fast.checkpoint.tensor import WeightFile
from gpt2fast.checkpoint.torch_bin import TorchFile
from gpt2fast.errors import CheckpointError
from gpt2fast.files.json_file import read_json_object

SAFETENSORS = "model.safetensors"
TORCH_BIN = "pytorch_model.bin"
INDEX_SUFFIX = ".index.json"
GRAPH = "model.onnx"  # of an export, whose weights are for onnxruntime alone

_OPENERS: dict[str, Callable[[Path], WeightFile]] = {
    SAFETENSORS: SafetensorsFile,
    TORCH_BIN: TorchFile,
}


def has_weights(directory: Path) -> bool:
    """Whether ``directory`` has files that ``open_weight_files`` would look at."""
    names = [name + suffix for name in _OPENERS for suffix in ("", INDEX_SUFFIX)]
    return any((directory / name).is_file() for name in names)


def open_weight_files(directory: Path) -> list[WeightFile]:
    """The weight files of ``directory``, in transformers' order of preference.

    Raises CheckpointError when there are none, or when an index and its shards disagree.
    """
    for name, opener in _OPENERS.items():
        if (directory / name).is_file():
            return [_open(directory / name, opener)]
        index = directory / (name + INDEX_SUFFIX)
        if index.is_file():
            return _open_shards(index, opener)
    if (directory / GRAPH).is_file():
        raise CheckpointError(
            f"{directory} is an ONNX export: it can be run, evaluated and measured; for anything "
            "else give the checkpoint that it was made from"
        )
    raise CheckpointError(
        f"{directory}: no weights; looked for {SAFETENSORS}, {SAFETENSORS}{INDEX_SUFFIX}, "
        f"{TORCH_BIN} and {TORCH_BIN}{INDEX_SUFFIX}"
    )


def read_weight_map(index: Path) -> dict[str, str]:
    """Tensor name -> shard file name, every one a plain file name beside ``index``."""
    weight_map = read_json_object(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index}: has no weight_map")
    for name, shard in weight_map.items():
        # A path could lead out of the checkpoint, to a file its author should not choose.
        if not isinstance(shard, str) or not shard or shard in (".", "..") or set(shard) & _BAD:
            raise CheckpointError(
                f"{index}: {name!r} is in shard {shard!r}, which is not a plain file name"
            )
    return weight_map


_BAD = frozenset("/\\:*?[]\0")  # separators, drive letters, and what a glob would expand


def _open(path: Path, opener: Callable[[Path], WeightFile]) -> WeightFile:
    refuse_placeholder(path)
    return opener(path)


def _open_shards(index: Path, opener: Callable[[Path], WeightFile]) -> list[WeightFile]:
    weight_map = read_weight_map(index)
    shards = sorted(set(weight_map.values()))
    missing = [shard for shard in shards if not (index.parent / shard).is_file()]
    if missing:
        raise CheckpointError(
            f"{index}: {len(missing)} of {len(shards)} shards are missing: "
            f"{', '.join(missing[:20])}"
        )
    files = [_open(index.parent / shard, opener) for shard in shards]
    stored = {name: file.path.name for file in reversed(files) for name in file.tensors}
    if stored == weight_map and sum(len(file.tensors) for file in files) == len(stored):
        return files
    problems = [
        f"{name!r} should be in {weight_map.get(name, 'no shard')}, is in "
        f"{stored.get(name, 'no shard')}"
        for name in sorted(weight_map.keys() | stored.keys())
        if weight_map.get(name) != stored.get(name)
    ] or ["a tensor is stored in two shards"]
    raise CheckpointError(f"{index}: the shards do not agree with it: {'; '.join(problems[:20])}")
