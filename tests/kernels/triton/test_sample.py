"""Choosing tokens from logits under filters."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gpt2fast.kernels.triton.head import Choice
from gpt2fast.kernels.triton.product import Sizes
from gpt2fast.kernels.triton.sample import sample
from support.gumbel_reference import kept, noise
from support.triton_cases import examples, fill_state

ROWS = st.fixed_dictionaries(
    {
        "temperature": st.sampled_from([0.0, 0.3, 1.0, 4.0]),
        "top_k": st.sampled_from([0, 1, 2, 5, 40, 10**6]),
        "top_p": st.sampled_from([1.0, 0.999, 0.9, 0.5, 0.01]),
        "min_p": st.sampled_from([0.0, 0.05, 0.9]),
        "seed": st.integers(0, 2**64 - 1),
        "stream": st.integers(0, 4095),
        "draw": st.integers(0, 1023),
    }
)


def choose(device: torch.device, logits: torch.Tensor, rows: list[dict[str, Any]]) -> list[int]:
    choice = Choice(len(logits), Sizes(1, logits.shape[1], 32), torch.float32, device)
    fill_state(choice.state, rows)
    sample(logits.to(device), choice)
    return choice.history[: len(rows), 0].tolist()


@examples(12)
@given(
    rows=st.lists(ROWS, min_size=1, max_size=4),
    vocabulary=st.integers(2, 300) | st.just(9000),
    spread=st.sampled_from([0.01, 1.0, 8.0]),
    ties=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_the_token_is_the_best_of_those_kept(
    device: torch.device,
    rows: list[dict[str, Any]],
    vocabulary: int,
    spread: float,
    ties: bool,
    seed: int,
) -> None:
    rng = np.random.default_rng(seed)
    logits = (rng.standard_normal((len(rows), vocabulary)) * spread).astype(np.float32)
    if ties:
        logits = np.round(logits * 2) / 2
    for token, row, fields in zip(
        choose(device, torch.from_numpy(logits), rows), logits.astype(np.float64), rows, strict=True
    ):
        if not fields["temperature"]:
            assert token == row.argmax()
            continue
        filters = [fields[name] for name in ("temperature", "top_k", "top_p", "min_p")]
        scores = noise(vocabulary, fields["seed"], fields["stream"], fields["draw"])
        # Sums in single precision may end the kept ones a value earlier or later.
        near = [filters[2] * (1 + e) if filters[2] < 1 else 1.0 for e in (-1e-5, 0.0, 1e-5)]
        best = []
        for top_p in near:
            left = kept(row, filters[0], filters[1], min(top_p, 1.0), filters[3]) / filters[0]
            best.append((left + scores).max())
        mine = row[token] / filters[0] + scores[token]
        assert min(abs(mine - each) for each in best) < 1e-3 + abs(mine) * 1e-5


def test_frequencies_are_the_probabilities() -> None:
    """20,000 draws from eight tokens with the noise that the kernels are held against; chi-square
    with 7 degrees of freedom exceeds 29.9 one time in ten thousand."""
    logits = np.array([0.5, -1.0, 2.0, 0.0, 1.0, -2.0, 0.3, 1.5]) / 0.8
    tokens = [int((logits + noise(8, 77, 3, draw)).argmax()) for draw in range(20000)]
    want = np.exp(logits) / np.exp(logits).sum() * len(tokens)
    got = np.bincount(tokens, minlength=8)
    assert ((got - want) ** 2 / want).sum() < 29.9


@pytest.mark.parametrize("top_k", [0, 2])
def test_tokens_without_probability_are_never_chosen(device: torch.device, top_k: int) -> None:
    logits = torch.full((12, 100), float("-inf"))
    logits[:, [3, 60]] = torch.tensor([1.0, 1.5])
    rows = [{"temperature": 1.0, "top_k": top_k, "top_p": 0.99, "draw": i} for i in range(12)]
    assert set(choose(device, logits, rows)) == {3, 60}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_logits_that_are_no_numbers_are_said_to_be(device: torch.device, value: float) -> None:
    logits = torch.zeros(3, 20)
    logits[:, 5] = value
    rows = [{"temperature": t, "top_k": 4, "top_p": 0.9} for t in (0.0, 0.5, 1.0)]
    assert choose(device, logits, rows) == [-1, -1, -1]
