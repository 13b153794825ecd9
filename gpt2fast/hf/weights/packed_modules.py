"""Quantized matrices as modules of transformers' network, in place of Conv1D, Embedding and Linear.

Each holds the packed panels that the C++ runner reads. In a forward pass in torch a matrix is
dequantized temporarily. N outputs, K inputs, V vocabulary, C width.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from gpt2fast.config import ModelConfig
from gpt2fast.quantization import EMBEDDING, HEAD, Quantization
from gpt2fast.quantization.panel_layout import LANES, PanelLayout, matrix_layouts
from gpt2fast.quantization.panels import decode


class PackedModule(nn.Module):
    """Base class. ``weight`` (panels, bytes per panel) is uint8."""

    def __init__(self, layout: PanelLayout) -> None:
        super().__init__()
        self.layout = layout
        panels = torch.empty(layout.shape, dtype=torch.uint8)
        self.weight: Tensor = nn.Parameter(panels, requires_grad=False)

    def extra_repr(self) -> str:
        """Shape and format, for ``repr``."""
        return f"{self.layout.inputs} -> {self.layout.outputs}, {self.layout.format.label}"

    def to_float_module(self, dtype: torch.dtype) -> nn.Module:
        """The module that this one replaced, with dequantized weights."""
        raise NotImplementedError

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        """The matrix (N, K), a new tensor."""
        return _dequantize(self.weight, self.layout).to(self.weight.device, dtype)


class PackedConv1D(PackedModule):
    """Replaces a ``Conv1D``."""

    def __init__(self, layout: PanelLayout) -> None:
        super().__init__(layout)
        # A buffer, because transformers 4 initializes a parameter of this name with normal_(),
        # which integers do not have.
        del self.weight
        self.register_buffer("weight", torch.empty(layout.shape, dtype=torch.uint8))
        self.bias = nn.Parameter(torch.zeros(layout.outputs))

    def forward(self, x: Tensor) -> Tensor:
        """x (..., K) -> (..., N)."""
        return F.linear(x, self.dequantize(x.dtype), self.bias.to(x.dtype))

    def to_float_module(self, dtype: torch.dtype) -> nn.Module:
        """See ``PackedModule``."""
        module = Conv1D(self.layout.outputs, self.layout.inputs)
        module.weight.data, module.bias.data = self.dequantize(dtype).T.contiguous(), self.bias.data
        return cast(nn.Module, module.to(dtype))


class PackedEmbedding(PackedModule):
    """Replaces the token ``Embedding``."""

    def forward(self, ids: Tensor) -> Tensor:
        """ids (...) -> (..., C)."""
        panels, inverse = torch.unique(ids // LANES, return_inverse=True)
        part = replace(self.layout, outputs=len(panels) * LANES)
        rows = _dequantize(self.weight[panels], part).to(ids.device)
        return rows[inverse * LANES + ids % LANES]

    def to_float_module(self, dtype: torch.dtype) -> nn.Module:
        """See ``PackedModule``."""
        module = nn.Embedding(self.layout.outputs, self.layout.inputs)
        module.weight.data = self.dequantize(dtype)
        return module


class PackedHead(PackedModule):
    """Replaces the ``Linear`` of a language-model head."""

    def forward(self, x: Tensor) -> Tensor:
        """x (..., C) -> (..., V)."""
        return F.linear(x, self.dequantize(x.dtype))

    def to_float_module(self, dtype: torch.dtype) -> nn.Module:
        """See ``PackedModule``."""
        module = nn.Linear(self.layout.inputs, self.layout.outputs, bias=False)
        module.weight.data = self.dequantize(dtype)
        return module


def _dequantize(panels: Tensor, layout: PanelLayout) -> Tensor:
    matrix = decode(panels.detach().cpu().contiguous().numpy(), layout)
    return torch.from_numpy(matrix.dequantize())


def named_weights(module: nn.Module) -> dict[str, Tensor]:
    """All parameters, and the panels of packed modules, by name."""
    panels = {
        f"{name}.weight" if name else "weight": each.weight
        for name, each in module.named_modules()
        if isinstance(each, PackedModule)
    }
    return {**dict(module.named_parameters()), **panels}


def insert_packed_modules(
    model: Any, network: Any, config: ModelConfig, scheme: Quantization
) -> None:
    """Replace the modules whose matrices ``scheme`` stores as integers, in ``network``, a
    ``GPT2Model``, and the head of ``model`` around it. The panels are not initialized: load them
    afterwards."""
    layouts = matrix_layouts(config, "float32", scheme)
    for name, layout in layouts.items():
        if layout.format.is_integer and name not in (EMBEDDING, HEAD):
            _replace(network, name.removesuffix(".weight"), PackedConv1D(layout))
    if not layouts[EMBEDDING].format.is_integer:
        return
    _replace(network, EMBEDDING.removesuffix(".weight"), PackedEmbedding(layouts[EMBEDDING]))
    head = layouts.get(HEAD, layouts[EMBEDDING])
    if hasattr(model, "lm_head") and head.format.is_integer:
        model.lm_head = PackedHead(head)


def dequantize_modules(model: Any, dtype: torch.dtype) -> None:
    """Replace all packed modules by float modules, and convert ``model`` to ``dtype``."""
    for name, module in list(model.named_modules()):
        if isinstance(module, PackedModule):
            _replace(model, name, module.to_float_module(dtype))
    model.tie_weights()
    nn.Module.to(model, dtype)  # PreTrainedModel.to refuses a dtype on quantized models


def _replace(root: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    setattr(root.get_submodule(parent), last, module)
