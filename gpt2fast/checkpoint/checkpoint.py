"""A checkpoint that is open: its configuration, its tensors by canonical name, its tokenizer."""

from __future__ import annotations

import math
import os
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gpt2fast.checkpoint import names
from gpt2fast.checkpoint.packed import PackedTensor, check_panel_metadata
from gpt2fast.checkpoint.resolve import resolve
from gpt2fast.checkpoint.tensor import (
    ELEMENT_BYTES,
    FLOAT_BYTES,
    FLOAT_TYPES,
    PACKED,
    StoredTensor,
    TensorInfo,
    WeightFile,
)
from gpt2fast.checkpoint.tokenizer import load_tokenizer
from gpt2fast.checkpoint.weight_files import open_weight_files
from gpt2fast.config import ModelConfig
from gpt2fast.config.hf_config import read_token_ids
from gpt2fast.errors import CheckpointError, OptionError
from gpt2fast.files.json_file import read_json_object
from gpt2fast.quantization import Quantization
from gpt2fast.quantization.panel_layout import PanelLayout, matrix_layouts

if TYPE_CHECKING:
    from tokenizers import Tokenizer

QUANTIZATION_FIELD = "quantization_config"  # of config.json
_COMPARED_BYTES = 2**24  # read at a time where two large tensors are compared


def open_checkpoint(
    name_or_path: str | os.PathLike[str], revision: str | None = None
) -> Checkpoint:
    """Open ``"demo"``, a directory in Hugging Face format, or a hub id such as ``"gpt2"``.

    A hub id is downloaded into the cache of huggingface_hub, at ``revision`` if given; only the
    files that are needed. All checks but those of the values themselves are made here.

    Raises CheckpointError (or its ConfigError, UnsupportedError) naming the file when anything is
    missing, damaged or inconsistent, and OptionError for a revision of a local directory.
    """
    path = resolve(name_or_path, revision)
    config, generation_config, quantization = read_config(path)
    return Checkpoint(path, config, generation_config, open_weight_files(path), quantization)


def read_config(path: Path) -> tuple[ModelConfig, dict[str, Any], Quantization | None]:
    """The model's configuration in the directory ``path``, its generation_config.json, {} where
    there is none, and what its matrices are stored in. Raises ConfigError naming the file."""
    config_file = path / "config.json"
    fields = read_json_object(config_file)
    scheme = fields.pop(QUANTIZATION_FIELD, None)
    quantization = Quantization.from_config(scheme, str(config_file)) if scheme else None
    config = ModelConfig.from_dict(fields, str(config_file))
    generation_file = path / "generation_config.json"
    generation_config: dict[str, Any] = {}
    # Where this file exists, transformers' generate() takes the end of text from it alone.
    if generation_file.is_file():
        generation_config = read_json_object(generation_file)
        eos = generation_config.get("eos_token_id")
        ids = read_token_ids(eos, "eos_token_id", str(generation_file))
        config = replace(config, eos_token_ids=ids)
    return config, generation_config, quantization


class Checkpoint:
    """Named tensors of one model, mapped and not yet read. Use ``open_checkpoint`` to make one.

    A context manager; ``close()`` drops the maps, and tensors already taken stay valid.
    """

    def __init__(
        self,
        path: Path,
        config: ModelConfig,
        generation_config: dict[str, Any],
        files: list[WeightFile],
        quantization: Quantization | None = None,
    ) -> None:
        self.path = path
        self.generation_config = generation_config  # {} when there is no such file
        self.quantization = quantization  # of the stored matrices; None where they are floats
        layouts: dict[str, PanelLayout] = {}
        if quantization is not None:
            layouts = _layouts(config, quantization, path)
            check_panel_metadata(files, quantization)
        self._layouts = {name: each for name, each in layouts.items() if each.format.is_integer}
        self._files = {file.path: file for file in files}
        stored = (info for file in files for info in file.tensors.values())
        tensors = names.canonical_tensors(stored, path)
        packed = {name: layout.shape for name, layout in self._layouts.items()}
        forms = {name: layout.format.name for name, layout in layouts.items()}
        dtypes = {name: FLOAT_TYPES.get(form, PACKED) for name, form in forms.items()}
        names.check_tensors(config, tensors, path, packed, dtypes)
        if config.tie_word_embeddings and names.HEAD in tensors:
            tensors.setdefault(names.TOKEN_TABLE, tensors[names.HEAD])
            if not self._equal(tensors[names.HEAD], tensors[names.TOKEN_TABLE]):
                config = names.untie(config, path)
        self.config = config
        self._shapes = names.expected_shapes(config)
        self._tensors = {name: tensors[name] for name in self._shapes}

    @property
    def names(self) -> list[str]:
        """Canonical names in the order of the forward pass; ``lm_head.weight`` only if untied."""
        return list(self._tensors)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Canonical name -> shape of the values, whatever they are stored as."""
        return dict(self._shapes)

    @property
    def layouts(self) -> dict[str, PanelLayout]:
        """Canonical name -> panels of each matrix that is stored as integers."""
        return dict(self._layouts)

    @property
    def files(self) -> list[Path]:
        """The files of weights."""
        return list(self._files)

    @property
    def num_parameters(self) -> int:
        """Number of weights; a tied head is counted once, stored constants (no shape) are not."""
        return names.num_parameters(self._shapes)

    @property
    def num_bytes(self) -> int:
        """Bytes of the weights as stored."""
        return sum(self.bytes_by_dtype.values())

    @property
    def bytes_by_dtype(self) -> dict[str, int]:
        """Bytes of the weights as stored, for each type that occurs: "F32", "int8-g64" ..."""
        result: dict[str, int] = {}
        for name, info in self._tensors.items():
            layout = self._layouts.get(name)
            kind = info.dtype if layout is None else layout.format.label
            size = math.prod(info.shape) * ELEMENT_BYTES[info.dtype]
            result[kind] = result.get(kind, 0) + size
        return result

    def tensor(self, name: str) -> StoredTensor:
        """The tensor of a canonical name: a ``PackedTensor`` where it is quantized.

        Raises CheckpointError for a name that is not there.
        """
        if not self._files:
            raise CheckpointError(f"{self.path}: the checkpoint is closed")
        if name not in self._tensors:
            raise CheckpointError(f"{self.path}: there is no tensor {name!r}")
        info = self._tensors[name]
        data, release = self._files[info.path].load(info.name)
        if (layout := self._layouts.get(name)) is not None:
            label, shape = layout.format.label, self._shapes[name]
            return PackedTensor(name, label, shape, data, info.path, release, layout)
        return StoredTensor(name, info.dtype, info.shape, data, info.path, release)

    def load_tokenizer(self) -> Tokenizer | None:
        """The tokenizer beside the weights, None if there is none.

        Raises CheckpointError naming the file when its files are damaged.
        """
        return load_tokenizer(self.path)

    def close(self) -> None:
        """Drop the maps of the weight files."""
        for file in self._files.values():
            file.close()
        self._files = {}

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _equal(self, first: TensorInfo, second: TensorInfo) -> bool:
        """Whether two tensors hold equal values; reads a piece at a time."""
        if first is second:
            return True
        views = []
        for info in (first, second):
            data, release = self._files[info.path].load(info.name)
            flat = (math.prod(info.shape),)
            views.append(StoredTensor(info.name, info.dtype, flat, data, info.path, release))
        step = _COMPARED_BYTES // 8
        try:
            return all(
                np.array_equal(_piece(views[0], start, step), _piece(views[1], start, step))
                for start in range(0, views[0].shape[0], step)
            )
        finally:
            for view in views:
                view.release()


def _layouts(config: ModelConfig, quantization: Quantization, path: Path) -> dict[str, PanelLayout]:
    try:
        return matrix_layouts(config, "float32", quantization)
    except OptionError as error:
        raise CheckpointError(f"{path / 'config.json'}: quantization_config: {error}") from None


def _piece(tensor: StoredTensor, start: int, count: int) -> NDArray[np.float32]:
    size = FLOAT_BYTES[tensor.dtype]
    data = tensor.data[start * size : (start + count) * size]
    return replace(tensor, data=data, shape=(data.size // size,)).float32()
