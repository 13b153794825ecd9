"""A checkpoint as the products of the GPU's kernels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gpt2fast.checkpoint.packed import PackedTensor
from gpt2fast.kernels.triton.product import LayerNorm, Product
from gpt2fast.kernels.triton.quantized_weight import QuantizedWeight
from gpt2fast.model.weights import read_tensor
from gpt2fast.quantization import EMBEDDING, FLOAT_FORMATS, HEAD, Quantization
from gpt2fast.quantization.matrix import QuantizedMatrix

if TYPE_CHECKING:
    from gpt2fast.checkpoint import Checkpoint


@dataclass(frozen=True)
class Layer:
    """The four products of a block."""

    attention_in: Product
    attention_out: Product
    mlp_in: Product
    mlp_out: Product


@dataclass(frozen=True)
class Weights:
    """A model: the table of tokens (V, C), that of positions (P, C), blocks, the last LayerNorm,
    and the head with it before."""

    tokens: Product
    positions: Tensor
    layers: list[Layer]
    norm: LayerNorm
    head: Product


def load(
    checkpoint: Checkpoint,
    device: torch.device,
    dtype: torch.dtype,
    quantization: Quantization | None,
) -> Weights:
    """Copy a checkpoint to the GPU; matrices in ``quantization``'s integers if given, those that it
    keeps in floats in ``dtype``.

    A checkpoint that is stored quantized keeps its integers. Raises CheckpointError for values
    that are no numbers, or that ``dtype`` cannot hold.
    """
    c = checkpoint.config

    def read(name: str) -> Tensor:
        return read_tensor(checkpoint, name, device, dtype)

    def norm(name: str) -> LayerNorm:
        return LayerNorm(read(f"{name}.weight"), read(f"{name}.bias"), c.layer_norm_epsilon)

    matrix = _reader(checkpoint, device, dtype, quantization)

    def product(name: str, before: LayerNorm | None = None) -> Product:
        return Product(matrix(f"{name}.weight"), read(f"{name}.bias"), before)

    layers = [
        Layer(
            product(f"h.{i}.attn.c_attn", norm(f"h.{i}.ln_1")),
            product(f"h.{i}.attn.c_proj"),
            product(f"h.{i}.mlp.c_fc", norm(f"h.{i}.ln_2")),
            product(f"h.{i}.mlp.c_proj"),
        )
        for i in range(c.n_layer)
    ]
    table = matrix(EMBEDDING)
    head = table if c.tie_word_embeddings else matrix(HEAD)
    last = norm("ln_f")
    tail = Product(head, None, last)
    return Weights(Product(table), read("wpe.weight"), layers, last, tail)


def _reader(
    checkpoint: Checkpoint,
    device: torch.device,
    dtype: torch.dtype,
    quantization: Quantization | None,
) -> Callable[[str], Tensor | QuantizedWeight]:
    """Reads a matrix (N, K) by its name."""

    def read(name: str) -> Tensor | QuantizedWeight:
        is_table = name in (EMBEDDING, HEAD)  # stored (N, K); GPT-2 stores the others (K, N)
        form = None if quantization is None else quantization.format_of(name)
        if form is None or form.name in FLOAT_FORMATS:
            values = read_tensor(checkpoint, name, device, dtype)
            if form is not None and form.name == "bfloat16":
                values = values.bfloat16().to(dtype)  # what a float checkpoint is rounded to
            return values if is_table else values.T.contiguous()
        if checkpoint.quantization is not None:
            return _stored_integers(checkpoint, name, device)
        values = read_tensor(checkpoint, name, device, torch.float32)
        values = values if is_table else values.T
        return QuantizedWeight.from_float(values, form.name, form.group_size)

    return read


def _stored_integers(checkpoint: Checkpoint, name: str, device: torch.device) -> QuantizedWeight:
    stored = checkpoint.tensor(name)
    assert isinstance(stored, PackedTensor)
    matrix = stored.matrix()
    stored.release()
    integers = torch.tensor(matrix.integers).to(device)
    scales = torch.tensor(matrix.scales).to(device)
    return QuantizedWeight.from_matrix(QuantizedMatrix(integers, scales, matrix.format))
