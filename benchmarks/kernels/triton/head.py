"""The head: logits, and the token chosen from them in the same launch, beside torch's product and
argmax.

Float16 and int8 in groups of 64; the matrix comes from memory. A choice is checked by its logit.

    python benchmarks/kernels/triton/head.py
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import paths  # noqa: F401
import torch
import torch.nn.functional as F
from gpu.case import Case, main
from torch import Tensor

from gpt2fast.bench.sizes import SIZES
from gpt2fast.kernels.triton.head import Choice, head_choose, head_logits
from gpt2fast.kernels.triton.product import LayerNorm, Product
from gpt2fast.kernels.triton.quantized_weight import QuantizedWeight

MODELS = ("gpt2", "gpt2-xl")
ROWS = (1, 8, 32, 128)
VOCABULARY, EPSILON = 50257, 1e-5


class Inputs(NamedTuple):
    """x (T, C), the rows of it that are wanted, the head, and its float16 values (V, C)."""

    x: Tensor
    picked: Tensor
    product: Product
    values: Tensor
    norm: LayerNorm
    choice: Choice


def make(rows: int, width: int, bits: int, device: torch.device) -> Inputs:
    """Fresh inputs and a fresh head."""
    exact = torch.randn(VOCABULARY, width, device=device) * 0.1
    stored: Tensor | QuantizedWeight = exact.half()
    values = exact.half()
    if bits == 8:
        stored = QuantizedWeight.from_float(exact, "int8", 64)
        values = stored.float().half()
    gain, shift = 1 + 0.1 * torch.randn(2, width, device=device, dtype=torch.float16)
    norm = LayerNorm(gain, shift - 1, EPSILON)
    x = torch.randn(rows, width, device=device, dtype=torch.float16) * 2
    product = Product(stored, None, norm)
    choice = Choice(rows, product.sizes, x.dtype, device)
    picked = torch.arange(rows, dtype=torch.int32, device=device)
    return Inputs(x, picked, product, values, norm, choice)


def logits(inputs: Inputs) -> Tensor:
    """(R, V)."""
    return head_logits(inputs.x, inputs.picked, inputs.product)


def choose(inputs: Inputs) -> Tensor:
    """Tokens (R,), greedily."""
    inputs.choice.state.zero_()
    head_choose(inputs.x, inputs.picked, inputs.product, inputs.choice)
    return inputs.choice.history[: len(inputs.picked), 0]


def plain(inputs: Inputs) -> Tensor:
    """Logits in torch, in float16."""
    norm = inputs.norm
    x = F.layer_norm(inputs.x, inputs.x.shape[1:], norm.weight, norm.bias, norm.epsilon)
    return F.linear(x, inputs.values)


def plain_choose(inputs: Inputs) -> Tensor:
    """Tokens in torch."""
    return plain(inputs).argmax(dim=1)


def reference(inputs: Inputs) -> Tensor:
    """Logits in float64."""
    norm = inputs.norm
    gain, shift = norm.weight.double(), norm.bias.double()
    x = F.layer_norm(inputs.x.double(), inputs.x.shape[1:], gain, shift, norm.epsilon)
    parts = [x @ part.double().T for part in inputs.values.split(4096)]
    return torch.cat(parts, dim=1)


def best(inputs: Inputs) -> Tensor:
    """The largest logits (R,)."""
    return reference(inputs).max(dim=1).values


def chosen_logits(call: Callable[[Inputs], Tensor], inputs: Inputs) -> Tensor:
    """The logits (R,) of the tokens chosen: near the largest, whoever wins a tie."""
    return reference(inputs).gather(1, call(inputs).long()[:, None])[:, 0]


def cases(device: torch.device) -> Iterator[Case]:
    """Few rows first."""
    for rows in ROWS:
        for model in MODELS:
            width = SIZES[model][0]
            for name, bits in (("float16", 16), ("int8", 8)):
                moved = VOCABULARY * width * bits / 8
                common = {
                    "at": f"x{rows}",
                    "make": partial(make, rows, width, bits, device),
                    "tolerance": 1e-2,
                    "bytes": moved,
                    "rotating": moved,
                }
                is_half = bits == 16
                yield Case(
                    case=f"head logits {model} {name}",
                    calls={"gpt2fast": logits} | ({"torch": plain} if is_half else {}),
                    reference=reference,
                    **common,  # type: ignore[arg-type]
                )
                calls = {"gpt2fast": choose} | ({"torch": plain_choose} if is_half else {})
                yield Case(
                    case=f"head choose {model} {name}",
                    calls=calls,
                    reference=best,
                    shaped=dict.fromkeys(calls, chosen_logits),
                    **common,  # type: ignore[arg-type]
                )


if __name__ == "__main__":
    raise SystemExit(main(cases, __doc__))
