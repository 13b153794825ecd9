"""A transformers network in memory, read through the interface of a checkpoint."""

from __future__ import annotations

from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

from gpt2fast.checkpoint.names import HEAD, TOKEN_TABLE, expected_shapes
from gpt2fast.checkpoint.packed import PackedTensor
from gpt2fast.checkpoint.tensor import StoredTensor
from gpt2fast.config import ModelConfig
from gpt2fast.errors import CheckpointError
from gpt2fast.hf.weights.offload import ParameterOffload
from gpt2fast.hf.weights.packed_modules import PackedModule, named_weights
from gpt2fast.hf.weights.structure import check_structure
from gpt2fast.quantization import Quantization

_WHERE = "the model's config"
_DTYPES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.float64: "F64"}


def model_config(network: Any) -> ModelConfig:
    """The ``ModelConfig`` of a ``GPT2Model``, or of a model with a head around one.

    Raises ConfigError for a config that is not supported."""
    # Whether a head is tied is found by looking at it; a network alone has one embedding.
    return ModelConfig.from_dict({**_fields(network), "tie_word_embeddings": True}, _WHERE)


def _fields(network: Any) -> dict[str, Any]:
    fields: dict[str, Any] = network.config.to_dict()
    # Other fields do not change the computation; check_structure looks at the modules themselves.
    known = {name: value for name, value in fields.items() if name in _config_keys()}
    return {**known, "model_type": "gpt2"}  # a subclass of GPT2Config may have another


@cache
def _config_keys() -> frozenset[str]:
    usual: set[str] = set(transformers.GPT2Config().to_dict())
    return frozenset(usual - {"quantization_config"} | {"per_layer_config"})


class ModuleCheckpoint:
    """A ``GPT2Model``, and the head of a ``GPT2LMHeadModel`` on it (or None), as a ``Checkpoint``.

    It has what runners use of one: names, shapes and one tensor at a time. Tensors that are
    contiguous and on the CPU are not copied. With ``offload`` each parameter's memory is freed once
    the runner has released its tensor.

    Raises CheckpointError for a weight that is missing, on the "meta" device or of another shape
    than the config says, and UnsupportedError for modules that are not GPT-2's."""

    def __init__(self, network: Any, head: Any, *, offload: bool = False) -> None:
        self.path = Path(f"<{type(network).__name__}>")
        self._layouts = {
            f"{name}.weight": module.layout
            for name, module in network.named_modules()
            if isinstance(module, PackedModule)
        }
        stored = network.config.quantization_config if self._layouts else None
        self.quantization: Quantization | None = stored and stored.scheme
        self.config = model_config(network)
        check_structure(network, head, self.config)
        self._weights = {
            name.replace(".base_layer.", "."): each for name, each in named_weights(network).items()
        }
        table = self._weights[TOKEN_TABLE]
        if head is not None and not _shares_memory(head.weight, table):
            fields = {**_fields(network), "tie_word_embeddings": False}
            self.config = ModelConfig.from_dict(fields, _WHERE)
            self._weights[HEAD] = head.weight
            if isinstance(head, PackedModule):
                self._layouts[HEAD] = head.layout
        all_weights = [
            *self._weights.values(),
            *([] if head is None else named_weights(head).values()),
        ]
        self._offload = ParameterOffload(all_weights) if offload else None
        self.shapes = expected_shapes(self.config)
        self.names = list(self.shapes)
        for name, shape in self.shapes.items():
            weight = self._weights.get(name)
            layout = self._layouts.get(name)
            expected = shape if layout is None else layout.shape
            if weight is not None and weight.device.type == "meta":
                raise CheckpointError(f"{name} is not in memory")
            if weight is None or tuple(weight.shape) != expected:
                actual = "missing" if weight is None else f"{list(weight.shape)}"
                raise CheckpointError(f"{name} is {actual}, and its config says {list(expected)}")

    def tensor(self, name: str) -> StoredTensor:
        """The tensor with a canonical name of ``names``."""
        values = self._weights[name].detach().cpu().contiguous()
        data = values.reshape(-1).view(torch.uint8).numpy()
        shape = tuple(self.shapes[name])
        release = partial(self._release, name)
        if (layout := self._layouts.get(name)) is not None:
            label = layout.format.label
            return PackedTensor(name, label, shape, data, self.path, release, layout)
        return StoredTensor(name, _DTYPES[values.dtype], shape, data, self.path, release)

    def close(self) -> None:
        """Call this after the last tensor was read."""
        if self._offload is not None:
            self._offload.close()

    def _release(self, name: str) -> None:
        if self._offload is not None:
            self._offload.offload(self._weights[name])


def _shares_memory(first: Tensor, second: Tensor) -> bool:
    return first is second or first.data_ptr() == second.data_ptr()
