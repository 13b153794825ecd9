"""A model between two passes: a network in float32, and the integers that some of it already is.

Shapes: N outputs, K inputs.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gpt2fast.checkpoint import open_checkpoint
from gpt2fast.config import ModelConfig
from gpt2fast.errors import OptionError
from gpt2fast.model.gpt2 import GPT2
from gpt2fast.model.weights import load_weights
from gpt2fast.quantization import EMBEDDING, HEAD, matrix

SHORT_FLOATS = ("F16", "BF16")
CONV1D_PARTS = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")  # of a block, in order


QuantizedMatrix = matrix.QuantizedMatrix[Tensor]


@dataclass
class Model:
    """What a pass works on. ``matrices`` has what is quantized already, by canonical name; the
    network holds the values that those integers stand for."""

    network: GPT2
    source: Path  # the directory whose tokenizer and generation files go with it
    matrices: dict[str, QuantizedMatrix] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)  # what each pass did, as JSON
    stored: str = "F32"  # what the original's matrices are: a model of floats is saved as that

    @property
    def config(self) -> ModelConfig:
        """Shapes and flags of the network as it is now."""
        return self.network.config

    def matrix_names(self) -> list[str]:
        """Canonical names of all matrices that can be quantized: embedding, blocks, untied head."""
        names = [EMBEDDING]
        for layer in range(self.config.n_layer):
            names += [f"h.{layer}.{part}.weight" for part in CONV1D_PARTS]
        return names if self.config.tie_word_embeddings else [*names, HEAD]

    def weight(self, name: str) -> Tensor:
        """The matrix ``name``, an output a row: (N, K). A view of the network's parameter."""
        parameter = self.network.get_parameter(name).detach()
        return parameter if name in (EMBEDDING, HEAD) else parameter.T

    def set_weight(self, name: str, values: Tensor) -> None:
        """Replace the matrix ``name`` by ``values`` (N, K), which are floats again."""
        self.weight(name).copy_(values)
        self.matrices.pop(name, None)

    def set_quantized(self, name: str, matrix: QuantizedMatrix) -> None:
        """Replace the matrix ``name`` by integers, and its values in the network."""
        self.set_weight(name, matrix.dequantize())
        self.matrices[name] = matrix

    def replace_network(self, network: GPT2) -> None:
        """Go on with another network, of other shapes perhaps: nothing of it is quantized."""
        self.network = frozen(network)
        self.matrices = {}


def open_model(name_or_path: str | os.PathLike[str], revision: str | None = None) -> Model:
    """The float checkpoint as a model to compress; its directory is only read.

    Raises CheckpointError, or OptionError for one that is quantized already.
    """
    with open_checkpoint(name_or_path, revision) as checkpoint:
        if checkpoint.quantization is not None:
            raise OptionError(
                f"{checkpoint.path} is stored in {checkpoint.quantization.name}; compress the "
                "float checkpoint it was made from"
            )
        network = GPT2(checkpoint.config)
        load_weights(network, checkpoint)
        stored = checkpoint.tensor(EMBEDDING).dtype
        return Model(
            frozen(network), checkpoint.path, stored=stored if stored in SHORT_FLOATS else "F32"
        )


def frozen(network: GPT2) -> GPT2:
    """``network`` in evaluation mode and without gradients."""
    return network.eval().requires_grad_(False)


def is_finite(network: GPT2) -> bool:
    """Whether all parameters are numbers."""
    return all(bool(torch.isfinite(parameter).all()) for parameter in network.parameters())
