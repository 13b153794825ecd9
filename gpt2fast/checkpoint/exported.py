"""An ONNX export, as ``gpt2fast export`` writes it, where a checkpoint could stand."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpt2fast.checkpoint.checkpoint import Checkpoint, open_checkpoint, read_config
from gpt2fast.checkpoint.resolve import resolve
from gpt2fast.checkpoint.tokenizer import load_tokenizer
from gpt2fast.checkpoint.weight_files import GRAPH, has_weights
from gpt2fast.config import ModelConfig
from gpt2fast.errors import CheckpointError
from gpt2fast.files.json_file import read_json_object
from gpt2fast.quantization import Quantization

if TYPE_CHECKING:
    from tokenizers import Tokenizer


@dataclass(frozen=True)
class Export:
    """A directory whose weights are in a graph of ONNX. A context manager, as a checkpoint is."""

    path: Path
    config: ModelConfig
    quantization: Quantization | None = None  # what it is stored in is the graph's own affair

    @property
    def graph(self) -> Path:
        """The file that onnxruntime opens."""
        return self.path / GRAPH

    @property
    def num_bytes(self) -> int:
        """Bytes of the graph with its weights."""
        return sum(file.stat().st_size for file in self.path.glob(f"{GRAPH}*"))

    @property
    def report(self) -> dict[str, Any]:
        """What ``gpt2fast export`` wrote of it; {} where there is no report."""
        file = self.path / "report.json"
        return read_json_object(file) if file.is_file() else {}

    @property
    def bytes_held(self) -> int:
        """Bytes of the weights in memory: on a CPU onnxruntime widens floats of 16 bits."""
        precision = self.report.get("export", {}).get("precision")
        return self.num_bytes * (2 if precision in ("fp16", "bf16") else 1)

    def check_sizes(self) -> None:
        """Raises CheckpointError naming a file that is not as long as the report says."""
        for name, size in self.report.get("export", {}).get("bytes", {}).items():
            file = self.path / str(name)
            found = file.stat().st_size if file.is_file() else None
            if found != size:
                held = "is missing" if found is None else f"has {found} bytes"
                raise CheckpointError(f"{file} {held}, its report says {size}; export it again")

    def load_tokenizer(self) -> Tokenizer | None:
        """The tokenizer beside the graph, None if there is none."""
        return load_tokenizer(self.path)

    def __enter__(self) -> Export:
        return self

    def __exit__(self, *raised: object) -> None:
        """There is nothing to close."""


def open_model(
    name_or_path: str | os.PathLike[str], revision: str | None = None
) -> Checkpoint | Export:
    """Open what can be run: a checkpoint as ``open_checkpoint`` does, or an export on the disk."""
    path = resolve(name_or_path, revision)
    if has_weights(path) or not (path / GRAPH).is_file():
        return open_checkpoint(path)
    config, _, _ = read_config(path)
    return Export(path, config)
