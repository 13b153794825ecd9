"""Nats and divergences against their definitions in float64."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from gpt2fast.errors import GPT2FastError, OptionError
from gpt2fast.evaluate import compare_logits, kl_and_agreement, plain_windows, token_nats
from gpt2fast.evaluate.divergence import kl_divergence
from gpt2fast.evaluate.scoring import log_sum_exp, nats_of

VOCABULARY = 11


class Table:
    """A scorer that knows nothing but the token before, and counts what it is asked."""

    def __init__(self, seed: int, size: int = VOCABULARY) -> None:
        self.rows = np.random.default_rng(seed).standard_normal((VOCABULARY, size)) * 3
        self.asked: list[int] = []

    def __call__(self, token_ids: Sequence[int], /) -> Any:
        self.asked.append(len(token_ids))
        return self.rows.astype(np.float32)[list(token_ids)]

    def log_probabilities(self) -> Any:
        exact = self.rows.astype(np.float32).astype(np.float64)
        return exact - np.log(np.exp(exact).sum(axis=1, keepdims=True))


def tokens(rows: int = 9, length: int = 21) -> Any:
    return np.random.default_rng(1).integers(0, VOCABULARY, (rows, length))


def test_nats_against_the_definition() -> None:
    scorer, text, steps = Table(0), tokens(), []
    found = token_nats(scorer, plain_windows(text), lambda: steps.append(1))
    wanted = -scorer.log_probabilities()[text[:, :-1], text[:, 1:]].ravel()
    np.testing.assert_allclose(found, wanted, rtol=1e-6)
    assert scorer.asked == [20] * 9, "the last token of a window need not be read"
    assert len(steps) == 9


@pytest.mark.parametrize("shift", [0.0, 300.0, -1e4])
def test_log_sum_exp_of_a_whole_vocabulary(shift: float) -> None:
    rows = (np.random.default_rng(2).standard_normal((19, 50_257)) * 4 + shift).astype(np.float32)
    exact = rows.astype(np.float64)
    top = exact.max(axis=1)
    wanted = np.log(np.exp(exact - top[:, None]).sum(axis=1)) + top
    np.testing.assert_allclose(log_sum_exp(rows), wanted, rtol=0, atol=2e-7)
    assert rows[0, 0] == exact[0, 0], "the logits are the scorer's own"


@pytest.mark.parametrize("noise", [1.0, 1e-2, 1e-4])
def test_kl_against_the_definition(noise: float) -> None:
    """Small divergences too, which are small sums of large terms."""
    rng = np.random.default_rng(4)
    p = (rng.standard_normal((10, 5000)) * 3).astype(np.float32)
    q = (p + 2.0 + noise * rng.standard_normal(p.shape)).astype(np.float32)
    of_p, of_q = (
        x - np.log(np.exp(x).sum(1, keepdims=True)) for x in (p.astype(float), q.astype(float))
    )
    wanted = (np.exp(of_p) * (of_p - of_q)).sum(axis=1)
    np.testing.assert_allclose(kl_divergence(p, q), wanted, rtol=1e-3, atol=3e-8)
    np.testing.assert_array_equal(kl_divergence(p, p), 0.0)


def test_divergence_of_two_models() -> None:
    one, two, text = Table(0), Table(5), tokens()
    found = compare_logits(one, two, plain_windows(text))
    p, q = one.log_probabilities(), two.log_probabilities()
    before = text[:, :-1].ravel()
    np.testing.assert_allclose(found.kl, (np.exp(p) * (p - q)).sum(1)[before], rtol=1e-5)
    np.testing.assert_array_equal(found.agrees, (p.argmax(1) == q.argmax(1))[before])
    np.testing.assert_allclose(found.nats, -q[before, text[:, 1:].ravel()], rtol=1e-6)
    np.testing.assert_allclose(found.reference_nats, -p[before, text[:, 1:].ravel()], rtol=1e-6)
    kl, agreement = kl_and_agreement(one, two, plain_windows(text))
    assert (kl, agreement) == (pytest.approx(found.kl.mean()), found.agrees.mean())
    assert kl_and_agreement(one, one, plain_windows(text)) == (0.0, 1.0)


def test_a_torch_network_is_a_scorer() -> None:
    torch = pytest.importorskip("torch")
    table, text = Table(0), plain_windows(tokens())
    found = token_nats(lambda ids: torch.from_numpy(table(ids)), text)
    np.testing.assert_array_equal(found, token_nats(table, text))


def test_nan_is_named() -> None:
    logits = np.zeros((3, 4), np.float32)
    logits[1, 2] = np.nan
    with pytest.raises(GPT2FastError, match="gives NaN"):
        nats_of(logits, np.zeros(3, np.int64))
    logits[1, 2] = np.inf
    with pytest.raises(GPT2FastError, match="gives NaN"):
        nats_of(logits, np.zeros(3, np.int64))


def test_an_impossible_token_costs_infinitely_much() -> None:
    logits = np.array([[0.0, -np.inf]], np.float32)
    assert nats_of(logits, np.array([1])).tolist() == [math.inf]
    assert nats_of(logits, np.array([0])).tolist() == [0.0]


def test_what_cannot_be_compared() -> None:
    with pytest.raises(OptionError, match="logits for 11 tokens, the model for 12"):
        compare_logits(Table(0), Table(0, VOCABULARY + 1), plain_windows(tokens()))
    with pytest.raises(OptionError, match="no windows"):
        compare_logits(Table(0), Table(1), [])
    with pytest.raises(GPT2FastError, match=r"shape \(1, 20, 11\) for 20 tokens"):
        token_nats(lambda ids: Table(0)(ids)[None], plain_windows(tokens()))
