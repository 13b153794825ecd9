"""Logits, and the tokens chosen from them in the same launch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from gpt2fast.kernels import reference
from gpt2fast.kernels.triton.head import Choice, head_choose, head_logits
from gpt2fast.kernels.triton.product import LayerNorm, Product
from gpt2fast.kernels.triton.quantized_weight import QuantizedWeight
from support.gumbel_reference import margin, noise
from support.triton_cases import examples, fill_state, normal, state_field, within_bound


def make(
    device: torch.device,
    dtype: torch.dtype,
    shape: tuple[int, int, int],
    form: tuple[str, int] | None,
    seed: int,
) -> tuple[torch.Tensor, torch.Tensor, Product, list[torch.Tensor]]:
    """x (T, C), picked rows, the head, and of its logits those of torch in dtype, those in float64,
    and sums of the magnitudes of their terms."""
    rows, width, vocabulary = shape
    generator = torch.Generator().manual_seed(seed)
    x = normal(generator, rows + 3, width, scale=2.0).to(dtype)
    weight, shift = normal(generator, vocabulary, width), normal(generator, width).to(dtype)
    gain = (1 + normal(generator, width, scale=0.1)).to(dtype)
    picked = torch.randperm(rows + 3, generator=generator)[:rows]
    stored: torch.Tensor | QuantizedWeight = weight.to(dtype)
    values = weight.to(dtype)
    if form is not None:
        stored = QuantizedWeight.from_float(weight, *form)
        values = stored.float()
    norm = LayerNorm(gain.to(device), shift.to(device), 1e-5)
    results = []
    for precision in (dtype, torch.float64):
        gains = gain.to(precision), shift.to(precision)
        y = reference.layer_norm(x[picked].to(precision), *gains, 1e-5)
        results.append(y @ values.to(precision).T)
    results.append(y.abs() @ values.double().abs().T)
    return x.to(device), picked.int().to(device), Product(stored.to(device), None, norm), results


@pytest.mark.parametrize("form", [None, ("int8", 64)], ids=str)
@examples(4)
@example(rows=1, width=163, vocabulary=300, seed=2257748)
@given(
    rows=st.integers(1, 6) | st.sampled_from([20, 70]),
    width=st.integers(2, 200),
    vocabulary=st.integers(2, 90) | st.just(300),
    seed=st.integers(0, 2**32),
)
def test_logits_and_tokens(
    device: torch.device,
    dtype: torch.dtype,
    form: tuple[str, int] | None,
    rows: int,
    width: int,
    vocabulary: int,
    seed: int,
) -> None:
    x, picked, product, (plain, exact, terms) = make(
        device, dtype, (rows, width, vocabulary), form, seed
    )
    logits = head_logits(x, picked, product)
    # The shift is moved behind the matrix: two sums, whose roundings are of their terms' size.
    atol = 1e-5 + 4 * torch.finfo(torch.float32).eps * float(terms.max())
    within_bound(logits, plain, exact, atol)
    choice = Choice(rows, product.sizes, x.dtype, device)
    choice.best.fill_(torch.nan)
    rng = np.random.default_rng(seed)
    given_rows = [
        {
            "temperature": float(rng.choice([0.0, 0.7, 3.0])),
            "seed": int(rng.integers(2**63)),
            "stream": int(rng.integers(9)),
            "draw": int(rng.integers(1000)),
            "context": int(rng.choice([-1, 5])),
        }
        for _ in range(rows)
    ]
    fill_state(choice.state, given_rows)
    for step in (0, 1):
        head_choose(x, picked, product, choice)
        for row, fields in enumerate(given_rows):
            scores = logits[row].cpu().double().numpy()
            if fields["temperature"]:
                draw = fields["draw"] + step
                scores = scores / fields["temperature"]
                scores += noise(vocabulary, fields["seed"], fields["stream"], draw)
            token = int(choice.history[row, step])
            assert scores[token] >= scores.max() - 1e-4, (row, margin(scores))
            assert state_field(choice.state, "token")[row] == token
    context = [-1 if f["context"] < 0 else f["context"] + 2 for f in given_rows]
    assert state_field(choice.state, "context")[:rows].tolist() == context
    assert state_field(choice.state, "written")[:rows].tolist() == [2] * rows
    assert not choice.arrived.any(), "the next launch counts from zero"


@pytest.mark.parametrize("rows", [1, 5])
def test_equal_logits_give_the_first(device: torch.device, rows: int) -> None:
    x, weight = torch.ones(rows, 16, device=device), torch.zeros(100, 16, device=device)
    weight[[40, 99]] = 1.0
    product = Product(weight)
    choice = Choice(rows, product.sizes, x.dtype, device)
    head_choose(x, torch.arange(rows, dtype=torch.int32, device=device), product, choice)
    assert choice.history[:rows, 0].tolist() == [40] * rows


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_no_numbers_are_said_to_be(
    device: torch.device, value: float, temperature: float
) -> None:
    x, weight = torch.ones(2, 16, device=device), torch.ones(100, 16, device=device)
    product = Product(weight, torch.zeros(100, device=device))
    product.bias[7 if value > 0 or value != value else slice(None)] = value
    choice = Choice(2, product.sizes, x.dtype, device)
    fill_state(choice.state, [{"temperature": temperature}] * 2)
    head_choose(x, torch.arange(2, dtype=torch.int32, device=device), product, choice)
    assert choice.history[:2, 0].tolist() == [-1, -1]
    assert state_field(choice.state, "token")[:2].tolist() == [0, 0]
