"""What a reader of weights needs to know of where they are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from gpt2fast.checkpoint.tensor import StoredTensor
from gpt2fast.config import ModelConfig
from gpt2fast.quantization.panel_layout import PanelLayout


class TensorSource(Protocol):
    """The tensors of one model by canonical name, one at a time: a ``Checkpoint``, or weights that
    are in memory."""

    @property
    def config(self) -> ModelConfig:
        """Shapes and flags."""

    @property
    def path(self) -> Path:
        """The directory that they are from."""

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Canonical name -> shape of the values, whatever they are stored as."""

    @property
    def layouts(self) -> Mapping[str, PanelLayout]:
        """Canonical name -> panels of each matrix that is stored as integers."""

    def tensor(self, name: str) -> StoredTensor:
        """The tensor of a canonical name: a ``PackedTensor`` where it is in ``layouts``."""

    def close(self) -> None:
        """Let go of the weights; tensors already taken stay valid."""
