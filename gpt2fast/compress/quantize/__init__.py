"""Matrices to integers: round to nearest, clipping, AWQ, GPTQ; SmoothQuant before any of them."""

from gpt2fast.compress.quantize.options import QuantizeOptions
from gpt2fast.compress.quantize.run import quantize

__all__ = ["QuantizeOptions", "quantize"]
