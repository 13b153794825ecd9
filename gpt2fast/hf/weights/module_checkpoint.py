"""The weights of a transformers network as a checkpoint that the runners load."""

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
from gpt2fast.hf.weights.offload import Attic
from gpt2fast.hf.weights.packed_modules import Packed, weights_of
from gpt2fast.hf.weights.structure import check_structure
from gpt2fast.quantization import Quantization

_WHERE = "the model's config"
_DTYPES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.float64: "F64"}


def config_of(network: Any) -> ModelConfig:
    """Of a ``GPT2Model``, or of one with a head. Raises ConfigError for what is not supported."""
    # Only a head with logits has a word in this; the network alone has one table.
    return ModelConfig.from_dict({**_fields(network), "tie_word_embeddings": True}, _WHERE)


def _fields(network: Any) -> dict[str, Any]:
    fields: dict[str, Any] = network.config.to_dict()
    # What else is in a config says nothing: how the modules look does.
    known = {name: value for name, value in fields.items() if name in _known_fields()}
    return {**known, "model_type": "gpt2"}  # a class derived from its config may have another


@cache
def _known_fields() -> frozenset[str]:
    usual: set[str] = set(transformers.GPT2Config().to_dict())
    return frozenset(usual - {"quantization_config"} | {"per_layer_config"})


class ModuleSource:
    """A ``GPT2Model``, and where there is one the head of a ``GPT2LMHeadModel`` on it.

    What the runners use of a ``Checkpoint``: names, shapes, one tensor at a time. Tensors are the
    module's memory where they are on the CPU and contiguous, which ``releases`` lets go of once
    they are released.
    """

    def __init__(self, network: Any, head: Any, *, releases: bool = False) -> None:
        self.path = Path(f"<{type(network).__name__}>")
        self._layouts = {
            f"{name}.weight": module.layout
            for name, module in network.named_modules()
            if isinstance(module, Packed)
        }
        stored = network.config.quantization_config if self._layouts else None
        self.quantization: Quantization | None = stored and stored.scheme  # of what is stored
        self.config = config_of(network)
        check_structure(network, head, self.config)
        self._weights = {
            name.replace(".base_layer.", "."): each for name, each in weights_of(network).items()
        }
        table = self._weights[TOKEN_TABLE]
        if head is not None and not _is_same(head.weight, table):
            fields = {**_fields(network), "tie_word_embeddings": False}
            self.config = ModelConfig.from_dict(fields, _WHERE)
            self._weights[HEAD] = head.weight
            if isinstance(head, Packed):
                self._layouts[HEAD] = head.layout
        everything = [*self._weights.values(), *([] if head is None else weights_of(head).values())]
        self._attic = Attic(everything) if releases else None
        self.shapes = expected_shapes(self.config)
        self.names = list(self.shapes)
        for name, shape in self.shapes.items():
            found = self._weights.get(name)
            layout = self._layouts.get(name)
            wanted = shape if layout is None else layout.shape
            if found is not None and found.device.type == "meta":
                raise CheckpointError(f"{name} is not in memory")
            if found is None or tuple(found.shape) != wanted:
                held = "missing" if found is None else f"{list(found.shape)}"
                raise CheckpointError(f"{name} is {held}, and its config says {list(wanted)}")

    def tensor(self, name: str) -> StoredTensor:
        """The tensor of a canonical name."""
        values = self._weights[name].detach().cpu().contiguous()
        data = values.reshape(-1).view(torch.uint8).numpy()
        shape = tuple(self.shapes[name])
        release = partial(self._release, name)
        if (layout := self._layouts.get(name)) is not None:
            label = layout.format.label
            return PackedTensor(name, label, shape, data, self.path, release, layout)
        return StoredTensor(name, _DTYPES[values.dtype], shape, data, self.path, release)

    def close(self) -> None:
        """All tensors were read."""
        if self._attic is not None:
            self._attic.close()

    def _release(self, name: str) -> None:
        if self._attic is not None:
            self._attic.store(self._weights[name])


def _is_same(first: Tensor, second: Tensor) -> bool:
    return first is second or first.data_ptr() == second.data_ptr()
