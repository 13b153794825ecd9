"""The filters against transformers' processors, the penalties against plain formulas, the draws
against the distribution they are drawn from."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt2fast.engine.rng import fresh_seed, uniform
from gpt2fast.engine.sampler import (
    filtered_distribution,
    invert_cdf,
    process_logits,
    sample_row,
    top_logprobs,
)
from gpt2fast.errors import CheckpointError, OptionError
from gpt2fast.sampling_params import SamplingParams

NO_STOP = np.array([], dtype=np.int64)


def random_logits(seed: int, size: int, scale: float = 3.0) -> np.ndarray:
    return (np.random.default_rng(seed).normal(size=size) * scale).astype(np.float32)


def dense(logits: np.ndarray, params: SamplingParams) -> np.ndarray:
    ids, weights = filtered_distribution(logits, params)
    probs = np.zeros(len(logits))
    probs[slice(None) if ids is None else ids] = weights / weights.sum(dtype=np.float64)
    return probs


@pytest.mark.parametrize("size", [2, 300, 50257])
@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0.7},
        {"temperature": 2.0, "top_k": 40},
        {"top_p": 0.9},
        {"top_p": 0.05},
        {"min_p": 0.1},
        {"temperature": 1.3, "top_k": 100, "top_p": 0.8},
        {"temperature": 0.9, "top_k": 50, "top_p": 0.95, "min_p": 0.02},
    ],
    ids=str,
)
def test_filters_equal_transformers(options: dict[str, float], size: int) -> None:
    torch = pytest.importorskip("torch")
    warpers = pytest.importorskip("transformers.generation.logits_process")
    params = SamplingParams(**options)  # type: ignore[arg-type]
    chain = [warpers.TemperatureLogitsWarper(params.temperature)]
    if params.top_k:
        chain.append(warpers.TopKLogitsWarper(params.top_k))
    if params.top_p < 1:
        chain.append(warpers.TopPLogitsWarper(params.top_p))
    if params.min_p:
        chain.append(warpers.MinPLogitsWarper(params.min_p))
    for seed in range(3):
        logits = random_logits(seed, size)
        scores = torch.tensor(logits)[None]
        for warper in chain:
            scores = warper(None, scores)
        expected = torch.softmax(scores[0].double(), -1).numpy()
        # A token on the very edge of top-p may fall to either side: its mass is the tolerance.
        assert np.abs(dense(logits, params) - expected).max() < 2e-5


def by_sorting_all(logits: np.ndarray, k: int, p: float) -> np.ndarray:
    """Ids that top-k, then top-p leave, ties with the last one included; temperature 1."""
    if 0 < k < len(logits):
        ids = np.flatnonzero(logits >= np.sort(logits)[::-1][k - 1])
    else:
        ids = np.arange(len(logits))
    weights = np.exp(logits[ids] - logits.max())
    if p == 1.0:
        return ids
    descending = np.sort(weights)[::-1]
    reached = np.cumsum(descending.astype(float)) >= p * weights.sum(dtype=float)
    return ids[weights >= descending[int(reached.argmax()) if reached.any() else -1]]


@settings(max_examples=150, deadline=None)
@given(
    size=st.integers(1, 300) | st.sampled_from([4097, 20000, 50257]),
    scale=st.sampled_from([0.01, 1.0, 3.0, 10.0]),
    k=st.sampled_from([0, 1, 2, 50, 300, 5000]),
    p=st.sampled_from([1.0, 1e-6, 0.3, 0.95, 0.9999]),
    ties=st.booleans(),
    banned=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_selection_equals_a_full_sort(
    size: int, scale: float, k: int, p: float, ties: bool, banned: bool, seed: int
) -> None:
    logits = random_logits(seed, size, scale)
    if ties:
        logits = np.round(logits)
    if banned:
        logits[np.random.default_rng(seed).integers(0, size, size // 2)] = -np.inf
        logits[seed % size] = 1.0
    params = SamplingParams(top_k=k, top_p=p)
    ids, weights = filtered_distribution(logits, params)
    kept = np.arange(size) if ids is None else ids
    np.testing.assert_array_equal(kept, by_sorting_all(logits, k, p))
    assert len(weights) == len(kept)


def test_top_k_1_is_greedy_and_top_k_beyond_the_vocabulary_is_off() -> None:
    logits = random_logits(0, 100)
    best = sample_row(logits, SamplingParams(temperature=0), 0.0)
    assert all(sample_row(logits, SamplingParams(top_k=1), u / 10) == best for u in range(10))
    off, huge = dense(logits, SamplingParams()), dense(logits, SamplingParams(top_k=10**6))
    np.testing.assert_array_equal(off, huge)


def test_repetition_penalty_equals_transformers() -> None:
    torch = pytest.importorskip("torch")
    process = pytest.importorskip("transformers.generation.logits_process")
    logits, tokens = random_logits(1, 500), [3, 3, 7, 499, 20]
    for penalty in (0.5, 1.3, 5.0):
        warper = process.RepetitionPenaltyLogitsProcessor(penalty)
        expected = warper(torch.tensor([tokens]), torch.tensor(logits)[None])[0].numpy()
        params = SamplingParams(repetition_penalty=penalty)
        ours = process_logits(logits, params, tokens, 2, NO_STOP)
        np.testing.assert_allclose(ours, expected, rtol=1e-6)


def plain_process(
    logits: np.ndarray, params: SamplingParams, tokens: list[int], num_prompt: int
) -> list[float]:
    """The documented formulas, one token at a time."""
    counts = Counter(tokens[num_prompt:])
    result = []
    for token, value in enumerate(logits.astype(float).tolist()):
        value += (params.logit_bias or {}).get(token, 0.0)
        if token in tokens:
            value = (
                value / params.repetition_penalty
                if value > 0
                else (value * params.repetition_penalty)
            )
        if counts[token]:
            value -= params.presence_penalty + params.frequency_penalty * counts[token]
        result.append(value)
    return result


@settings(max_examples=60, deadline=None)
@given(
    tokens=st.lists(st.integers(0, 29), min_size=1, max_size=20),
    split=st.integers(0, 20),
    repetition=st.floats(0.25, 4.0),
    presence=st.floats(-2, 2),
    frequency=st.floats(-2, 2),
    bias=st.dictionaries(st.integers(0, 29), st.floats(-100, 100), max_size=5),
)
def test_penalties_equal_plain_formulas(
    tokens: list[int],
    split: int,
    repetition: float,
    presence: float,
    frequency: float,
    bias: dict[int, float],
) -> None:
    num_prompt = min(split, len(tokens))
    params = SamplingParams(
        repetition_penalty=repetition,
        presence_penalty=presence,
        frequency_penalty=frequency,
        logit_bias=bias,
    )
    logits = random_logits(2, 30)
    before = logits.copy()
    ours = process_logits(logits, params, tokens, num_prompt, NO_STOP)
    expected = plain_process(logits, params, tokens, num_prompt)
    np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(logits, before)  # the runner's buffer is not ours to change


def test_min_tokens_bans_stop_tokens() -> None:
    params, stop = SamplingParams(min_tokens=2), np.array([4, 5])
    logits = random_logits(3, 10)
    early = process_logits(logits, params, [1, 2, 3], 2, stop)
    assert np.isneginf(early[[4, 5]]).all()
    assert np.isfinite(np.delete(early, [4, 5])).all()
    assert np.isfinite(process_logits(logits, params, [1, 2, 3, 6], 2, stop)).all()


def chi_square_limit(freedom: int) -> float:
    """The 99.99 % quantile by Wilson and Hilferty's approximation."""
    part = 2 / (9 * freedom)
    return freedom * (1 - part + 3.719 * math.sqrt(part)) ** 3


@pytest.mark.parametrize(
    "options", [{}, {"temperature": 0.5}, {"top_k": 5}, {"top_p": 0.8}, {"min_p": 0.05}], ids=str
)
def test_draws_follow_the_distribution(options: dict[str, float]) -> None:
    params = SamplingParams(**options)  # type: ignore[arg-type]
    logits = random_logits(4, 40, scale=1.5)
    draws = 20_000
    counts = np.bincount(
        [sample_row(logits, params, uniform(11, 0, position)) for position in range(draws)],
        minlength=len(logits),
    )
    expected = dense(logits, params) * draws
    assert (counts[expected == 0] == 0).all()
    common = expected >= 5
    rare = expected[~common].sum()
    statistic = ((counts - expected)[common] ** 2 / expected[common]).sum()
    if rare > 0:
        statistic += (counts[~common].sum() - rare) ** 2 / rare
    assert statistic < chi_square_limit(int(common.sum()))


@settings(max_examples=200, deadline=None)
@given(
    weights=st.lists(st.sampled_from([0.0, 1e-30, 0.25, 1.0, 3.0]), min_size=1, max_size=600),
    u=st.floats(0, 1, exclude_max=True),
)
def test_inverse_cdf_in_two_levels_equals_one(weights: list[float], u: float) -> None:
    array = np.array([1.0, *weights], dtype=np.float32)
    index = invert_cdf(array, u)
    cdf = np.cumsum(array.astype(np.float64))
    assert array[index] > 0
    assert cdf[index] >= u * cdf[-1] * (1 - 1e-12)
    assert cdf[index] - array[index] <= u * cdf[-1] * (1 + 1e-12)


def test_uniform_is_a_pure_function_with_independent_streams() -> None:
    grid = [uniform(seed, stream, n) for seed in (0, 1, 2**64 - 1) for stream in (0, 1)
            for n in range(50)]  # fmt: skip
    assert grid == [uniform(seed, stream, n) for seed in (0, 1, 2**64 - 1) for stream in (0, 1)
                    for n in range(50)]  # fmt: skip
    assert len(set(grid)) == len(grid)
    assert all(0 <= value < 1 for value in grid)
    assert fresh_seed() != fresh_seed()


def test_top_logprobs() -> None:
    logits = random_logits(5, 50)
    log_probs = np.log(np.exp(logits.astype(float)) / np.exp(logits.astype(float)).sum())
    order = np.argsort(-log_probs)
    chosen, *best = top_logprobs(logits, int(order[7]), 3)
    assert chosen[0] == order[7]
    assert chosen[2] == 8
    assert [token for token, _, _ in best] == order[:3].tolist()
    assert [rank for _, _, rank in best] == [1, 2, 3]
    for token, value, _ in (chosen, *best):
        assert value == pytest.approx(log_probs[token], abs=1e-5)
    assert len(top_logprobs(logits, 0, 0)) == 1


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_damaged_logits_are_refused(bad: float, temperature: float) -> None:
    logits = random_logits(6, 20)
    logits[13] = bad
    with pytest.raises(CheckpointError, match="logit"):
        sample_row(logits, SamplingParams(temperature=temperature), 0.5)


def test_tiny_temperature_is_the_argmax() -> None:
    logits = random_logits(7, 100)
    params = SamplingParams(temperature=1e-40)
    assert sample_row(logits, params, 0.999) == int(logits.argmax())


@pytest.mark.filterwarnings("error")
def test_extreme_temperatures_give_no_warning_of_numpy() -> None:
    logits = np.array([-3e38, 0.0, 3e38, 1.0], dtype=np.float32)
    assert sample_row(logits, SamplingParams(temperature=1e-30), 0.99) == 2
    flat = np.array([-3.0, 0.0, 3.0, 1.0], dtype=np.float32)
    draws = [sample_row(flat, SamplingParams(temperature=1e6), u) for u in (0.1, 0.4, 0.6, 0.9)]
    assert draws == [0, 1, 2, 3]


@pytest.mark.filterwarnings("error")
def test_an_overflow_is_blamed_on_what_made_it() -> None:
    params = SamplingParams(repetition_penalty=0.01)
    large = np.array([3e38, 1.0], dtype=np.float32)
    with pytest.raises(OptionError, match="penalties"):
        process_logits(large, params, [0], 1, NO_STOP)
    damaged = np.array([np.nan, 1.0], dtype=np.float32)
    with pytest.raises(CheckpointError, match="weights are damaged"):
        process_logits(damaged, params, [0], 1, NO_STOP)
    everything = np.arange(2)
    with pytest.raises(OptionError, match="min_tokens"):
        process_logits(large, SamplingParams(min_tokens=2), [0], 1, everything)
