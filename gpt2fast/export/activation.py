"""The MLP's activation, as the one operator that onnxruntime has for it or as a formula.

The specification is ``gpt2fast.kernels.reference.activation``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir

from gpt2fast.errors import UnsupportedError
from gpt2fast.export.graph import GraphBuilder

TANH_GELUS = ("gelu_new", "gelu_fast", "gelu_accurate", "gelu_python_tanh", "gelu_pytorch_tanh")
_MU, _SIGMA = 0.707107, 0.282095  # of the Laplace function
_Make = Callable[[GraphBuilder, ir.Value], Any]
Parameter = Callable[[str], float]  # by its name in the checkpoint below mlp.act
Rounded = Callable[[float], float]  # to the type that such parameters are stored in


def _gelu(g: GraphBuilder, x: ir.Value) -> Any:
    return g.op("Gelu", x, contrib=True)


def _swish(alpha: float) -> _Make:
    return lambda g, x: g.op("QuickGelu", x, contrib=True, alpha=alpha)


def _square(g: GraphBuilder, x: ir.Value) -> Any:
    return g.op("Mul", x, x)


def _clip(g: GraphBuilder, x: ir.Value, low: float, high: float) -> Any:
    return g.op("Clip", x, g.number(low), g.number(high))


def _laplace(g: GraphBuilder, x: ir.Value) -> Any:
    z = g.op("Mul", g.op("Sub", x, g.number(_MU)), g.number(1.0 / (_SIGMA * 2**0.5)))
    return g.op("Mul", g.op("Add", g.op("Erf", z), g.number(1.0)), g.number(0.5))


_ACTIVATIONS: dict[str, _Make] = {
    "gelu": _gelu,
    "gelu_10": lambda g, x: _clip(g, _gelu(g, x), -10.0, 10.0),
    "gelu_python": _gelu,
    "hardswish": lambda g, x: g.op("HardSwish", x),
    "laplace": _laplace,
    "leaky_relu": lambda g, x: g.op("LeakyRelu", x, alpha=0.01),
    "linear": lambda g, x: x,
    "mish": lambda g, x: g.op("Mul", x, g.op("Tanh", g.op("Softplus", x))),
    "quick_gelu": _swish(1.702),
    "relu": lambda g, x: g.op("Relu", x),
    "relu2": lambda g, x: _square(g, g.op("Relu", x)),
    "relu6": lambda g, x: _clip(g, x, 0.0, 6.0),
    "sigmoid": lambda g, x: g.op("Sigmoid", x),
    "silu": _swish(1.0),
    "sqrtsoftplus": lambda g, x: g.op("Sqrt", g.op("Softplus", x)),
    "swish": _swish(1.0),
    "tanh": lambda g, x: g.op("Tanh", x),
    **dict.fromkeys(TANH_GELUS, lambda g, x: g.op("FastGelu", x, contrib=True)),
}


def _softplus(x: float) -> float:
    return float(np.logaddexp(0.0, x))


def _xielu(g: GraphBuilder, x: ir.Value, parameter: Parameter, rounded: Rounded) -> Any:
    """The two curvatures are constants by now; transformers computes them in the type in which
    they are stored, bfloat16."""
    beta, least = parameter("beta"), parameter("eps")
    above = rounded(_softplus(parameter("alpha_p")))
    below = rounded(beta + rounded(_softplus(parameter("alpha_n"))))
    small = g.op("Min", x, g.number(least))
    # exp(z) - 1 as tanh(z / 2) (exp(z) + 1): without the cancellation at 0.
    grown = g.op("Add", g.op("Exp", small), g.number(1.0))
    expm1 = g.op("Mul", g.op("Tanh", g.op("Mul", small, g.number(0.5))), grown)
    negative = g.op("Mul", g.op("Sub", expm1, x), g.number(below))
    positive = g.op("Mul", _square(g, x), g.number(above))
    is_positive = g.op("Greater", x, g.number(0.0))
    curved = g.op("Where", is_positive, positive, negative)
    return g.op("Add", curved, g.op("Mul", x, g.number(beta)))


def activation(
    g: GraphBuilder, name: str, x: ir.Value, parameter: Parameter, rounded: Rounded
) -> Any:
    """``name`` of ``x``; ``parameter`` gives those that it has learned. Raises UnsupportedError for
    a name that has no formula here."""
    if name == "prelu":
        return g.op("PRelu", x, g.number(parameter("weight")))
    if name == "xielu":
        return _xielu(g, x, parameter, rounded)
    if name not in _ACTIVATIONS:
        raise UnsupportedError(f'activation_function "{name}" cannot be exported')
    return _ACTIVATIONS[name](g, x)
