"""The activations of the MLP, on values in float32."""

from __future__ import annotations

import triton
import triton.language as tl

# What config.json may call it, and the formula below. Learned ones and rarer ones are not here.
FORMULAS = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_accurate": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "gelu_python_tanh": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "linear": "linear",
    "quick_gelu": "quick_gelu",
    "relu": "relu",
    "relu2": "relu2",
    "sigmoid": "sigmoid",
    "silu": "silu",
    "swish": "silu",
    "tanh": "tanh",
}


@triton.jit
def activate(x, FORMULA: tl.constexpr):
    """One of the FORMULAS of float32 values; NaN stays NaN."""
    if FORMULA == "gelu_tanh":
        # 0.5 (1 + tanh(u)) is the logistic function of 2 u.
        y = x * tl.sigmoid(1.5957691216057308 * (x + 0.044715 * x * x * x))
    elif FORMULA == "gelu":
        y = 0.5 * x * (1.0 + tl.erf(0.7071067811865476 * x))
    elif FORMULA == "quick_gelu":
        y = x * tl.sigmoid(1.702 * x)
    elif FORMULA == "relu":
        y = tl.where(x < 0.0, 0.0, x)
    elif FORMULA == "relu2":
        y = tl.where(x < 0.0, 0.0, x * x)
    elif FORMULA == "sigmoid":
        y = tl.sigmoid(x)
    elif FORMULA == "silu":
        y = x * tl.sigmoid(x)
    elif FORMULA == "tanh":
        y = 2.0 * tl.sigmoid(2.0 * x) - 1.0
    else:
        tl.static_assert(FORMULA == "linear", "unknown activation")
        y = x
    return y
