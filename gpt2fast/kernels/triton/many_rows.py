"""What both sides of a product of many rows are made before it: rows that are normalized, weights
that are floats.

Each program of a product of few rows does this for itself, since a launch costs more. With many
rows it would be done again for every tile.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gpt2fast.kernels.triton.dequantize import dequantize
from gpt2fast.kernels.triton.layer_norm import layer_norm
from gpt2fast.kernels.triton.product import Product
from gpt2fast.kernels.triton.quantized_weight import QuantizedWeight


def normalized(x: Tensor, product: Product) -> Tensor:
    """x (T, K) after the LayerNorm of ``product``, if it has one; the shift is in its bias."""
    if product.norm is None:
        return x
    return layer_norm(x, product.norm.weight, product.no_shift, product.epsilon)[1]


def float_weight(product: Product, dtype: torch.dtype) -> Tensor:
    """The weights (N, K); integers are made ``dtype``, which is written once and read from the
    second-level cache."""
    if isinstance(product.weight, QuantizedWeight):
        return dequantize(product.weight, dtype)
    return product.weight
