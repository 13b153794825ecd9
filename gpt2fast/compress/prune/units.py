"""What structured pruning removes: heads and MLP neurons, each some rows of a ``c_proj``.

A unit is also columns of the matrix before it: of queries, keys and values for a head, of ``c_fc``
for a neuron. Shapes: U units of a layer, D rows of a unit, C width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from gpt2fast.config import LayerShape, ModelConfig
from gpt2fast.model.gpt2 import Block, Conv1D


class Units(ABC):
    """One kind of unit."""

    name: str  # in the plural
    projection: str  # the part of a block that takes what units give

    @abstractmethod
    def count(self, config: ModelConfig, layer: int) -> int:
        """U."""

    @abstractmethod
    def size(self, config: ModelConfig) -> int:
        """D."""

    @abstractmethod
    def shape(self, config: ModelConfig, layer: int, count: int) -> LayerShape:
        """The shape of ``layer`` with ``count`` units."""

    @abstractmethod
    def remove(self, block: Block, kept: Tensor) -> None:
        """Leave only the units ``kept`` of ``block``, in that order."""

    def project(self, block: Block) -> Conv1D:
        """The ``c_proj`` that takes what units give."""
        module = block.get_submodule(self.projection)
        assert isinstance(module, Conv1D)
        return module

    def rows(self, config: ModelConfig, units: Tensor) -> Tensor:
        """Rows of ``c_proj`` of ``units``: (len(units) * D,)."""
        size = self.size(config)
        return (units[:, None] * size + torch.arange(size, device=units.device)).flatten()


class Heads(Units):
    """Attention heads."""

    name, projection = "heads", "attn.c_proj"

    def count(self, config: ModelConfig, layer: int) -> int:
        return config.layer_shape(layer).n_head

    def size(self, config: ModelConfig) -> int:
        return config.head_size

    def shape(self, config: ModelConfig, layer: int, count: int) -> LayerShape:
        return LayerShape(count, config.layer_shape(layer).n_inner)

    def remove(self, block: Block, kept: Tensor) -> None:
        attention = block.attn
        width = attention.c_proj.weight.shape[0]  # H * D
        size = width // attention.n_head
        rows = (kept[:, None] * size + torch.arange(size, device=kept.device)).flatten()
        columns = torch.cat([rows, width + rows, 2 * width + rows])  # queries, keys, values
        _keep_outputs(attention.c_attn, columns)
        _keep_inputs(attention.c_proj, rows)
        attention.n_head = len(kept)


class Neurons(Units):
    """Neurons of the MLP."""

    name, projection = "neurons", "mlp.c_proj"

    def count(self, config: ModelConfig, layer: int) -> int:
        return config.layer_shape(layer).n_inner

    def size(self, config: ModelConfig) -> int:
        return 1

    def shape(self, config: ModelConfig, layer: int, count: int) -> LayerShape:
        return LayerShape(config.layer_shape(layer).n_head, count)

    def remove(self, block: Block, kept: Tensor) -> None:
        _keep_outputs(block.mlp.c_fc, kept)
        _keep_inputs(block.mlp.c_proj, kept)


HEADS, NEURONS = Heads(), Neurons()


def _keep_outputs(matrix: Conv1D, columns: Tensor) -> None:
    matrix.weight = _constant(matrix.weight[:, columns])
    matrix.bias = _constant(matrix.bias[columns])


def _keep_inputs(matrix: Conv1D, rows: Tensor) -> None:
    matrix.weight = _constant(matrix.weight[rows])


def _constant(values: Tensor) -> nn.Parameter:
    return nn.Parameter(values.detach().clone(), requires_grad=False)
