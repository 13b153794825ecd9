"""Matrices of a quantized checkpoint as modules of transformers' network.

Each holds the panels that the C++ runner takes, and is found where Conv1D, Embedding or Linear was.
Where a call has to run in torch, a matrix becomes floats for as long as it is needed. N outputs,
K inputs, V vocabulary, C width.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from gpt2fast.checkpoint.packed import decode
from gpt2fast.config import ModelConfig
from gpt2fast.panel_layout import LANES, PanelLayout, matrix_layouts
from gpt2fast.quantization import EMBEDDING, HEAD, Quantization


class Packed(nn.Module):
    """Panels in ``weight`` (panels, bytes of a panel), uint8."""

    def __init__(self, layout: PanelLayout) -> None:
        super().__init__()
        self.layout = layout
        panels = torch.empty(layout.shape, dtype=torch.uint8)
        self.weight: Tensor = nn.Parameter(panels, requires_grad=False)

    def extra_repr(self) -> str:
        """For the model's representation."""
        return f"{self.layout.inputs} -> {self.layout.outputs}, {self.layout.format.label}"

    def floats(self, dtype: torch.dtype) -> nn.Module:
        """The module of floats that this one stands for."""
        raise NotImplementedError

    def values(self, dtype: torch.dtype) -> Tensor:
        """The matrix (N, K): a new tensor."""
        return _floats(self.weight, self.layout).to(self.weight.device, dtype)


class PackedConv1D(Packed):
    """In place of a ``Conv1D``."""

    def __init__(self, layout: PanelLayout) -> None:
        super().__init__(layout)
        # A buffer: transformers 4 draws normal numbers for parameters of this name first.
        del self.weight
        self.register_buffer("weight", torch.empty(layout.shape, dtype=torch.uint8))
        self.bias = nn.Parameter(torch.zeros(layout.outputs))

    def forward(self, x: Tensor) -> Tensor:
        """x (..., K) -> (..., N)."""
        return F.linear(x, self.values(x.dtype), self.bias.to(x.dtype))

    def floats(self, dtype: torch.dtype) -> nn.Module:
        """See the base."""
        module = Conv1D(self.layout.outputs, self.layout.inputs)
        module.weight.data, module.bias.data = self.values(dtype).T.contiguous(), self.bias.data
        return cast(nn.Module, module.to(dtype))


class PackedEmbedding(Packed):
    """In place of the ``Embedding`` of tokens."""

    def forward(self, ids: Tensor) -> Tensor:
        """ids (...) -> (..., C)."""
        panels, inverse = torch.unique(ids // LANES, return_inverse=True)
        part = replace(self.layout, outputs=len(panels) * LANES)
        rows = _floats(self.weight[panels], part).to(ids.device)
        return rows[inverse * LANES + ids % LANES]

    def floats(self, dtype: torch.dtype) -> nn.Module:
        """See the base."""
        module = nn.Embedding(self.layout.outputs, self.layout.inputs)
        module.weight.data = self.values(dtype)
        return module


class PackedHead(Packed):
    """In place of a language model's ``Linear``."""

    def forward(self, x: Tensor) -> Tensor:
        """x (..., C) -> (..., V)."""
        return F.linear(x, self.values(x.dtype))

    def floats(self, dtype: torch.dtype) -> nn.Module:
        """See the base."""
        module = nn.Linear(self.layout.inputs, self.layout.outputs, bias=False)
        module.weight.data = self.values(dtype)
        return module


def _floats(panels: Tensor, layout: PanelLayout) -> Tensor:
    return torch.from_numpy(decode(panels.detach().cpu().contiguous().numpy(), layout))


def weights_of(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and panels by name."""
    panels = {
        f"{name}.weight" if name else "weight": each.weight
        for name, each in module.named_modules()
        if isinstance(each, Packed)
    }
    return {**dict(module.named_parameters()), **panels}


def pack_modules(model: Any, network: Any, config: ModelConfig, scheme: Quantization) -> None:
    """Put modules for the matrices that ``scheme`` stores as integers where those of floats are, in
    ``model`` and the ``GPT2Model`` inside; their panels are still to be loaded."""
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


def unpack_modules(model: Any, dtype: torch.dtype) -> None:
    """Modules of floats again, and what was floats before, all of ``dtype``."""
    for name, module in list(model.named_modules()):
        if isinstance(module, Packed):
            _replace(model, name, module.floats(dtype))
    model.tie_weights()
    nn.Module.to(model, dtype)  # that of transformers' models refuses as long as it has a quantizer


def _replace(root: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    setattr(root.get_submodule(parent), last, module)
