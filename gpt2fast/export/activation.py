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
from gpt2fast.export.operators import Operators

_TANH_GELUS = ("gelu_new", "gelu_fast", "gelu_accurate", "gelu_python_tanh", "gelu_pytorch_tanh")
_EXACT_GELUS = ("gelu", "gelu_python")
_MU, _SIGMA = 0.707107, 0.282095  # of the Laplace function
_Make = Callable[[Operators, GraphBuilder, ir.Value], Any]
Parameter = Callable[[str], float]  # by its name in the checkpoint below mlp.act
Rounded = Callable[[float], float]  # to the type that such parameters are stored in


def _swish(alpha: float) -> _Make:
    return lambda o, g, x: o.swish(x, alpha)


def _square(g: GraphBuilder, x: ir.Value) -> Any:
    return g.op("Mul", x, x)


def _clip(g: GraphBuilder, x: ir.Value, low: float, high: float) -> Any:
    return g.op("Clip", x, g.number(low), g.number(high))


def _laplace(g: GraphBuilder, x: ir.Value) -> Any:
    z = g.op("Mul", g.op("Sub", x, g.number(_MU)), g.number(1.0 / (_SIGMA * 2**0.5)))
    return g.op("Mul", g.op("Add", g.op("Erf", z), g.number(1.0)), g.number(0.5))


_ACTIVATIONS: dict[str, _Make] = {
    "gelu_10": lambda o, g, x: _clip(g, o.gelu(x, tanh=False), -10.0, 10.0),
    "hardswish": lambda o, g, x: g.op("HardSwish", x),
    "laplace": lambda o, g, x: _laplace(g, x),
    "leaky_relu": lambda o, g, x: g.op("LeakyRelu", x, alpha=0.01),
    "linear": lambda o, g, x: x,
    "mish": lambda o, g, x: g.op("Mul", x, g.op("Tanh", g.op("Softplus", x))),
    "quick_gelu": _swish(1.702),
    "relu": lambda o, g, x: g.op("Relu", x),
    "relu2": lambda o, g, x: _square(g, g.op("Relu", x)),
    "relu6": lambda o, g, x: _clip(g, x, 0.0, 6.0),
    "sigmoid": lambda o, g, x: g.op("Sigmoid", x),
    "silu": _swish(1.0),
    "sqrtsoftplus": lambda o, g, x: g.op("Sqrt", g.op("Softplus", x)),
    "swish": _swish(1.0),
    "tanh": lambda o, g, x: g.op("Tanh", x),
    **dict.fromkeys(_EXACT_GELUS, lambda o, g, x: o.gelu(x, tanh=False)),
    **dict.fromkeys(_TANH_GELUS, lambda o, g, x: o.gelu(x, tanh=True)),
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
    operators: Operators, name: str, x: ir.Value, parameter: Parameter, rounded: Rounded
) -> Any:
    """``name`` of ``x``; ``parameter`` gives those that it has learned. Raises UnsupportedError for
    a name that has no formula here."""
    g = operators.graph
    if name == "prelu":
        return g.op("PRelu", x, g.number(parameter("weight")))
    if name == "xielu":
        return _xielu(g, x, parameter, rounded)
    if name not in _ACTIVATIONS:
        raise UnsupportedError(f'activation_function "{name}" cannot be exported')
    return _ACTIVATIONS[name](operators, g, x)
