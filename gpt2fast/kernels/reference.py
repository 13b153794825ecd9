"""The specification of every operation, in plain torch: tests and benchmarks compare against this.

Shapes: B batch, T new tokens, S cached plus new tokens, C width, H heads, D head size.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from gpt2fast.errors import UnsupportedError

Activation = Callable[[Tensor], Tensor]

_SQRT_2_OVER_PI = math.sqrt(2.0 / math.pi)
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


def attention(q: Tensor, k: Tensor, v: Tensor, scale: float, upcast: bool = False) -> Tensor:
    """Causal ``softmax(scale * q k^T) v`` (Vaswani et al. 2017).

    q (B, H, T, D); k, v (B, H, S, D) with S >= T -> (B, H, T, D). The T queries are the last T of
    the S positions, so the past length is S - T and query t sees the keys up to S - T + t.
    ``upcast`` computes scores and softmax in float32 whatever the dtype of q, and rounds the
    probabilities to v's dtype (``reorder_and_upcast_attn``).
    """
    new, total = q.shape[-2], k.shape[-2]
    if upcast:
        q, k = q.float(), k.float()
    scores = (q @ k.transpose(-2, -1)) * scale  # (B, H, T, S)
    visible = torch.ones(new, total, dtype=torch.bool, device=q.device).tril(total - new)
    probabilities = scores.masked_fill(~visible, -math.inf).softmax(dim=-1)
    return probabilities.to(v.dtype) @ v


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
