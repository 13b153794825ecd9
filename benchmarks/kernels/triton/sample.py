"""Choosing tokens from logits under top-k and top-p, beside torch: top-k or a sort, then a draw.

A choice is random: checked is whether the filter leaves it.

    python benchmarks/kernels/triton/sample.py
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import numpy as np
import paths  # noqa: F401
import torch
from gpu.case import Case, main
from torch import Tensor

from gpt2fast.kernels.triton import row_state
from gpt2fast.kernels.triton.head import Choice
from gpt2fast.kernels.triton.product import Sizes
from gpt2fast.kernels.triton.sample import sample

ROWS = (1, 8, 32, 128)
VOCABULARY = 50257
TOP_K, TOP_P = 50, 0.9


class Inputs(NamedTuple):
    """logits (R, V) float32, and the fields of the rows."""

    logits: Tensor
    choice: Choice
    state: Tensor


def make(rows: int, top_k: int, top_p: float, device: torch.device) -> Inputs:
    """Fresh logits with the spread of a language model's."""
    choice = Choice(rows, Sizes(1, VOCABULARY, 32), torch.float32, device)
    fields = np.zeros(choice.state.shape, np.int32)
    for field, value in ((row_state.TEMPERATURE, 1.0), (row_state.TOP_P, top_p)):
        fields[field.value] = np.float32(value).view(np.int32)
    fields[row_state.TOP_K.value] = top_k
    fields[row_state.STREAM.value] = np.arange(fields.shape[1])
    logits = torch.randn(rows, VOCABULARY, device=device) * 3
    return Inputs(logits, choice, torch.from_numpy(fields).to(device))


def ours(inputs: Inputs) -> Tensor:
    """Tokens (R,)."""
    inputs.choice.state.copy_(inputs.state)
    sample(inputs.logits, inputs.choice)
    return inputs.choice.history[: len(inputs.logits), 0]


def plain_top_k(inputs: Inputs) -> Tensor:
    """torch.topk, softmax, multinomial."""
    values, tokens = inputs.logits.topk(TOP_K, dim=1)
    return tokens.gather(1, values.softmax(dim=1).multinomial(1))[:, 0]


def plain_top_p(inputs: Inputs) -> Tensor:
    """A sort, a running sum, multinomial."""
    values, tokens = inputs.logits.softmax(dim=1).sort(dim=1, descending=True)
    values[values.cumsum(dim=1) - values > TOP_P] = 0.0
    return tokens.gather(1, values.multinomial(1))[:, 0]


def kept(top_k: int, top_p: float, inputs: Inputs) -> Tensor:
    """Which tokens the filter leaves, (R, V); a value in float32 may fall on either side."""
    if top_k:
        return inputs.logits >= inputs.logits.topk(top_k, dim=1).values[:, -1:]
    values, tokens = inputs.logits.double().softmax(dim=1).sort(dim=1, descending=True)
    inside = values.cumsum(dim=1) - values <= TOP_P * (1 + 1e-5)
    return torch.zeros_like(inside).scatter(1, tokens, inside)


def is_kept(top_k: int, top_p: float, call: Callable[[Inputs], Tensor], inputs: Inputs) -> Tensor:
    """1 for each row (R,) whose token the filter leaves."""
    return kept(top_k, top_p, inputs).gather(1, call(inputs).long()[:, None])[:, 0].double()


def ones(inputs: Inputs) -> Tensor:
    """(R,)."""
    return torch.ones(len(inputs.logits), dtype=torch.float64, device=inputs.logits.device)


def cases(device: torch.device) -> Iterator[Case]:
    """Few rows first."""
    filters = (("top-k", TOP_K, 1.0, plain_top_k), ("top-p", 0, TOP_P, plain_top_p))
    for rows in ROWS:
        for name, top_k, top_p, rival in filters:
            calls = {"gpt2fast": ours, "torch": rival}
            yield Case(
                case=f"sample {name}",
                at=f"x{rows}",
                make=partial(make, rows, top_k, top_p, device),
                calls=calls,
                reference=ones,
                tolerance=1e-6,
                bytes=4.0 * rows * VOCABULARY,
                shaped=dict.fromkeys(calls, partial(is_kept, top_k, top_p)),
            )


if __name__ == "__main__":
    raise SystemExit(main(cases, __doc__))
