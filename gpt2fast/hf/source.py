"""The weights of a transformers network as a checkpoint that the runners load."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gpt2fast.checkpoint.names import HEAD, TOKEN_TABLE, expected_shapes
from gpt2fast.checkpoint.tensor import StoredTensor
from gpt2fast.config import ModelConfig
from gpt2fast.errors import CheckpointError
from gpt2fast.hf.memory import Attic
from gpt2fast.quantization import Quantization

_DTYPES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.float64: "F64"}


def config_of(network: Any) -> ModelConfig:
    """Of a ``GPT2Model``, or of one with a head. Raises ConfigError for what is not supported."""
    fields = network.config.to_dict()
    # Only a head with logits has a word in this; the network alone has one table.
    return ModelConfig.from_dict({**fields, "tie_word_embeddings": True}, "the model's config")


class ModuleSource:
    """A ``GPT2Model``, and where there is one the head of a ``GPT2LMHeadModel`` on it.

    What the runners use of a ``Checkpoint``: names, shapes, one tensor at a time. Tensors are the
    module's memory where they are on the CPU and contiguous, which ``releases`` lets go of once
    they are released.
    """

    quantization: Quantization | None = None  # of what is stored

    def __init__(self, network: Any, head: Any, *, releases: bool = False) -> None:
        self.path = Path(f"<{type(network).__name__}>")
        self._parameters: dict[str, nn.Parameter] = dict(network.named_parameters())
        table = self._parameters[TOKEN_TABLE]
        self.config = config_of(network)
        if head is not None and not _is_same(head.weight, table):
            fields = {**network.config.to_dict(), "tie_word_embeddings": False}
            self.config = ModelConfig.from_dict(fields, "the model's config")
            self._parameters[HEAD] = head.weight
        everything = [*self._parameters.values(), *([] if head is None else head.parameters())]
        self._attic = Attic(everything) if releases else None
        self.shapes = expected_shapes(self.config)
        self.names = list(self.shapes)
        for name, shape in self.shapes.items():
            found = self._parameters.get(name)
            if found is None or tuple(found.shape) != shape:
                held = "missing" if found is None else f"{list(found.shape)}"
                raise CheckpointError(f"{name} is {held}, the model's config says {list(shape)}")

    def tensor(self, name: str) -> StoredTensor:
        """The tensor of a canonical name."""
        values = self._parameters[name].detach().cpu().contiguous()
        data = values.reshape(-1).view(torch.uint8).numpy()
        shape = tuple(self.shapes[name])
        release = partial(self._release, name)
        return StoredTensor(name, _DTYPES[values.dtype], shape, data, self.path, release)

    def close(self) -> None:
        """All tensors were read."""
        if self._attic is not None:
            self._attic.close()

    def _release(self, name: str) -> None:
        if self._attic is not None:
            self._attic.store(self._parameters[name])


def _is_same(first: Tensor, second: Tensor) -> bool:
    return first is second or first.data_ptr() == second.data_ptr()
