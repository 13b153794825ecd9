"""The specification of every operation, in plain torch: tests and benchmarks compare against this.

Shapes: B batch, T new tokens, S cached plus new tokens, C width, H heads, D head size; of a matrix
K inputs, N outputs, G groups of inputs that share a scale.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from gpt2fast.errors import UnsupportedError
from gpt2fast.quantization import INTEGER_FORMATS, INTEGER_RANGES

Activation = Callable[[Tensor], Tensor]

_SQRT_2_OVER_PI = math.sqrt(2.0 / math.pi)
_TINY = 1e-30  # a group without a larger magnitude is all zeros: its inverse must stay a number
_LAPLACE_MU = 0.707107
_LAPLACE_SIGMA = 0.282095


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """``(x - mean) / sqrt(var + eps) * weight + bias`` over the last dimension (Ba et al. 2016).

    x (..., C), weight (C,), bias (C,) -> (..., C). The variance is the biased one.
    """
    return F.layer_norm(x, (x.shape[-1],), weight, bias, eps)


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """``x @ weight + bias`` in GPT-2's own layout: x (..., K), weight (K, N), bias (N,)."""
    return x @ weight + bias


def quantize_rows(x: Tensor, group: int) -> tuple[Tensor, Tensor]:
    """Activations (..., K) as integers in [-127, 127] (..., K) and their scales (..., G).

    The largest magnitude of a group is 127 steps. Both results are float32.
    """
    steps, integers, scales = torch.tensor(127.0), [], []
    for part in torch.split(x.float(), group, dim=-1):
        most = part.abs().amax(-1, keepdim=True)
        # A tensor over a tensor is one division; a number over a tensor rounds twice.
        integers.append(torch.round(part * torch.where(most > _TINY, steps / most, 0.0)))
        scales.append(most / steps)
    return torch.cat(integers, -1), torch.cat(scales, -1)


def _bfloat16_above(x: Tensor) -> Tensor:
    """The least bfloat16 numbers that are not below ``x`` >= 0."""
    nearest = x.bfloat16()
    above = (nearest.view(torch.int16) + 1).view(torch.bfloat16)
    return torch.where(nearest.float() < x, above, nearest).float()


def quantize_matrix(weight: Tensor, name: str, group: int) -> tuple[Tensor, Tensor]:
    """Weights (N, K) as integers (N, K) and scales (N, G), to nearest; the scales are bfloat16
    numbers in float32.

    int8: the largest magnitude of a group is 127 steps, the step rounded up so that nothing is
    clipped. int4, -8 .. 7: the value of largest magnitude is -8 steps, its sign moving into the
    step. int3, -4 .. 3: the same with -4.
    """
    low, high = INTEGER_RANGES[name]
    integers, scales = [], []
    for part in torch.split(weight.float(), group, dim=-1):
        least, most = part.amin(-1).clamp(max=0.0), part.amax(-1).clamp(min=0.0)
        extreme = torch.where(-least > most, least, most)
        if name == "int8":
            step = _bfloat16_above(extreme.abs() / 127.0)
        else:
            step = (extreme / low).bfloat16().float()
        scale = torch.where(extreme.abs() < _TINY, 0.0, step)
        inverse = torch.where(scale == 0.0, 0.0, 1.0 / scale)
        integers.append(torch.round(part * inverse[:, None]).clamp(low, high))
        scales.append(scale[:, None])
    return torch.cat(integers, -1), torch.cat(scales, -1)


def quantize_float8(weight: Tensor, group: int) -> tuple[Tensor, Tensor]:
    """Weights (N, K) as 8-bit floats (e4m3) and scales (N, G), to nearest; the scales are bfloat16
    numbers in float32, rounded up so that the largest magnitude of a group is not above 448."""
    values, scales = [], []
    for part in torch.split(weight.float(), group, dim=-1):
        extreme = part.abs().amax(-1)
        scale = torch.where(extreme < _TINY, 0.0, _bfloat16_above(extreme / 448.0))
        inverse = torch.where(scale == 0.0, 0.0, 1.0 / scale)
        values.append((part * inverse[:, None]).to(torch.float8_e4m3fn))
        scales.append(scale[:, None])
    return torch.cat(values, -1), torch.cat(scales, -1)


def store_matrix(weight: Tensor, name: str, group: int = 0) -> Tensor:
    """What weights (N, K) are after they were stored as ``name``, in float32."""
    if name == "fp8":
        values, scales = quantize_float8(weight, group)
        return dequantize(values.float(), scales, group)
    if name in INTEGER_FORMATS:
        return dequantize(*quantize_matrix(weight, name, group), group)
    return weight.bfloat16().float() if name == "bfloat16" else weight


def round_rows(x: Tensor, name: str, group: int = 0) -> Tensor:
    """What activations (..., K) are when they meet weights of the format ``name``, in float32."""
    return dequantize(*quantize_rows(x, group), group) if name in INTEGER_FORMATS else x


def dequantize(integers: Tensor, scales: Tensor, group: int) -> Tensor:
    """``integers * scale`` (..., K), the scales (..., G) spread over their groups."""
    return integers * scales.repeat_interleave(group, -1)[..., : integers.shape[-1]]


def matmul(x: Tensor, weight: Tensor, name: str, group: int = 0) -> Tensor:
    """``x @ weight.T`` with the weights (N, K) stored as ``name``: x (..., K) -> (..., N).

    In float64, so that what an implementation differs by is its own rounding.
    """
    rounded, stored = round_rows(x, name, group), store_matrix(weight, name, group)
    return rounded.double() @ stored.double().T


def cached(x: Tensor, name: str) -> Tensor:
    """Keys or values (..., D) as a cache of the format ``name`` gives them back, in float32."""
    if name == "int8":
        return dequantize(*quantize_rows(x, x.shape[-1]), x.shape[-1])
    return x.bfloat16().float() if name == "bfloat16" else x


def attention_weights(q: Tensor, k: Tensor, scale: float) -> Tensor:
    """Causal ``softmax(scale * q k^T)`` (B, H, T, S), with the shapes of ``attention``."""
    new, total = q.shape[-2], k.shape[-2]
    scores = (q @ k.transpose(-2, -1)) * scale
    visible = torch.ones(new, total, dtype=torch.bool, device=q.device).tril(total - new)
    return scores.masked_fill(~visible, -math.inf).softmax(dim=-1)


def attention(q: Tensor, k: Tensor, v: Tensor, scale: float, upcast: bool = False) -> Tensor:
    """Causal ``softmax(scale * q k^T) v`` (Vaswani et al. 2017).

    q (B, H, T, D); k, v (B, H, S, D) with S >= T -> (B, H, T, D). The T queries are the last T of
    the S positions, so the past length is S - T and query t sees the keys up to S - T + t.
    ``upcast`` computes scores and softmax in float32 whatever the dtype of q, and rounds the
    probabilities to v's dtype (``reorder_and_upcast_attn``).
    """
    if upcast:
        q, k = q.float(), k.float()
    return attention_weights(q, k, scale).to(v.dtype) @ v


def cached_attention(q: Tensor, k: Tensor, v: Tensor, scale: float, name: str) -> Tensor:
    """``attention`` over a cache of the format ``name``.

    An 8-bit cache is met by 8-bit products throughout: the query is rounded as the keys are, and
    the probabilities, times the scales of the values, in groups of 64 tokens.
    """
    if name != "int8":
        return attention(q, cached(k, name), cached(v, name), scale)
    integers, scales = quantize_rows(v, v.shape[-1])
    weights = attention_weights(cached(q, name), cached(k, name), scale) * scales.mT
    return dequantize(*quantize_rows(weights, 64), 64) @ integers


def _gelu_tanh(x: Tensor) -> Tensor:
    """GELU by tanh, equation 2 of Hendrycks and Gimpel 2016, one rounded operation at a time."""
    return 0.5 * x * (1.0 + torch.tanh(_SQRT_2_OVER_PI * (x + 0.044715 * torch.pow(x, 3.0))))


def _gelu_fast(x: Tensor) -> Tensor:
    """The same formula with the constant cut to ten digits."""
    return 0.5 * x * (1.0 + torch.tanh(x * 0.7978845608 * (1.0 + 0.044715 * x * x)))


def _gelu_python(x: Tensor) -> Tensor:
    """``x * Phi(x)`` with Phi the normal distribution function."""
    return 0.5 * x * (1.0 + torch.erf(x / math.sqrt(2.0)))


def _gelu_10(x: Tensor) -> Tensor:
    """GELU clipped to [-10, 10] (Wu et al. 2020, for quantization)."""
    return F.gelu(x).clamp(-10.0, 10.0)


def _laplace(x: Tensor) -> Tensor:
    """The Laplace attention function as an activation (Ma et al. 2022, MEGA)."""
    return 0.5 * (1.0 + torch.erf((x - _LAPLACE_MU) / (_LAPLACE_SIGMA * math.sqrt(2.0))))


_ACTIVATIONS: dict[str, Activation] = {
    "gelu": F.gelu,
    "gelu_10": _gelu_10,
    "gelu_accurate": _gelu_tanh,
    "gelu_fast": _gelu_fast,
    "gelu_new": _gelu_tanh,
    "gelu_python": _gelu_python,
    "gelu_python_tanh": _gelu_tanh,
    "gelu_pytorch_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "hardswish": F.hardswish,
    "laplace": _laplace,
    "leaky_relu": F.leaky_relu,
    "linear": lambda x: x,
    "mish": F.mish,
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "relu": F.relu,
    "relu2": lambda x: F.relu(x).square(),
    "relu6": F.relu6,
    "sigmoid": torch.sigmoid,
    "silu": F.silu,
    "sqrtsoftplus": lambda x: F.softplus(x).sqrt(),
    "swish": F.silu,
    "tanh": torch.tanh,
}


def _prelu(x: Tensor, weight: Tensor) -> Tensor:
    """``x``, times a learned slope where negative (He et al. 2015)."""
    return torch.where(x < 0, x * weight, x)


def _xielu(x: Tensor, alpha_p: Tensor, alpha_n: Tensor, beta: Tensor, eps: Tensor) -> Tensor:
    """xIELU (Huang and Schlag 2024): a parabola above 0, an integrated ELU below. A softplus keeps
    both learned curvatures positive; ``eps`` < 0 keeps expm1 off its cancellation at 0."""
    curve_p, curve_n = F.softplus(alpha_p), beta + F.softplus(alpha_n)
    negative = (torch.expm1(torch.minimum(x, eps)) - x) * curve_n
    return torch.where(x > 0, curve_p * x * x, negative) + beta * x


_LEARNED: dict[str, Callable[..., Tensor]] = {"prelu": _prelu, "xielu": _xielu}


def activation(name: str, parameters: Mapping[str, Tensor] | None = None) -> Activation:
    """The elementwise function that ``activation_function: name`` of ``config.json`` means.

    ``parameters``: of an activation that learns some, by their names in the checkpoint below
    ``mlp.act.``; each holds one value. Raises UnsupportedError for an unknown name.
    """
    if name in _LEARNED:
        return functools.partial(_LEARNED[name], **(parameters or {}))
    if name not in _ACTIVATIONS:
        known = ", ".join(sorted({*_ACTIVATIONS, *_LEARNED}))
        raise UnsupportedError(f'activation_function "{name}" is not known; use one of: {known}')
    return _ACTIVATIONS[name]
