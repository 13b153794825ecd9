"""Weights as the CPU runner rounded them, where a checkpoint of integers could stand."""

from __future__ import annotations

import numpy as np

from gpt2fast.checkpoint.packed import PackedTensor
from gpt2fast.checkpoint.tensor import StoredTensor
from gpt2fast.engine.llm import LLM
from gpt2fast.runners.cpu import CpuRunner


class RoundedWeights:
    """What ``llm``, whose weights were rounded as they were loaded, would save: a
    ``TensorSource``. A tensor is a copy, made when it is asked for."""

    def __init__(self, llm: LLM) -> None:
        runner = llm._open_runner()
        assert isinstance(runner, CpuRunner)
        self.path, self.config = llm._path, llm.config
        self.layouts = {
            name: each for name, each in runner.layouts.items() if each.format.is_integer
        }
        self._tensors = {tensor.name: tensor for tensor in runner.packed_tensors()}
        self.shapes = runner.shapes
        self._llm = llm

    def tensor(self, name: str) -> StoredTensor:
        """The tensor of a canonical name."""
        new, shape = self._tensors[name], self.shapes[name]
        data = np.ascontiguousarray(new.make()).reshape(-1).view(np.uint8)
        if (layout := self.layouts.get(name)) is not None:
            label = layout.format.label
            return PackedTensor(name, label, shape, data, self.path, _nothing, layout)
        return StoredTensor(name, new.dtype, shape, data, self.path, _nothing)

    def close(self) -> None:
        """Free the model."""
        self._tensors = {}
        self._llm.close()


def _nothing() -> None:
    """A copy is nobody else's."""
