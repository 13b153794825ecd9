"""The sampler against a reference in numpy, the reference against transformers' processors, the
penalties against plain formulas, the draws against the distribution they are drawn from."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt2fast import _C
from gpt2fast.engine.input_processor import build_request
from gpt2fast.engine.sample_step import check_token, sampling_by_host
from gpt2fast.engine.sequence import Sequence
from gpt2fast.errors import CheckpointError, OptionError
from gpt2fast.runners.base import RowSampling
from gpt2fast.runners.host_sampling import choose_tokens
from gpt2fast.sampling_params import SamplingParams
from support.engine.mock_runner import mock_config
from support.gumbel_reference import choose, kept, noise, process

FILTERS = [
    {},
    {"temperature": 0.7},
    {"temperature": 2.0, "top_k": 40},
    {"top_p": 0.9},
    {"top_p": 0.05},
    {"min_p": 0.1},
    {"temperature": 1.3, "top_k": 100, "top_p": 0.8},
    {"temperature": 0.9, "top_k": 50, "top_p": 0.95, "min_p": 0.02},
]


def random_logits(seed: int, size: int, scale: float = 3.0) -> np.ndarray:
    return (np.random.default_rng(seed).normal(size=size) * scale).astype(np.float32)


def sampling_of(params: SamplingParams, count: int, seed: int = 11) -> RowSampling:
    """Draws 0 to ``count`` of one stream."""
    return RowSampling(
        temperature=np.full(count, params.temperature, np.float32),
        top_k=np.full(count, max(params.top_k, 0), np.int32),
        top_p=np.full(count, params.top_p, np.float32),
        min_p=np.full(count, params.min_p, np.float32),
        seed=np.full(count, seed, np.uint64),
        stream=np.zeros(count, np.int32),
        draw=np.arange(count, dtype=np.int32),
    )


def draw_many(logits: np.ndarray, params: SamplingParams, count: int, seed: int = 11) -> np.ndarray:
    rows = np.broadcast_to(logits, (count, len(logits)))
    return choose_tokens(rows, sampling_of(params, count, seed))


def sampled(
    logits: np.ndarray, params: SamplingParams, tokens: list[int], num_prompt: int
) -> tuple[Sequence, int]:
    """A sequence with these tokens, and what follows it."""
    config = mock_config(vocab_size=len(logits))
    request = build_request(config, tokens[:num_prompt], params)
    sequence = Sequence(request, 0, tokens)
    token = int(choose_tokens(logits[None], sampling_by_host([sequence]))[0])
    return sequence, check_token(token)


def distribution(logits: np.ndarray, params: SamplingParams) -> np.ndarray:
    left = kept(logits.astype(float), params.temperature, params.top_k, params.top_p, params.min_p)
    weights = np.exp((left - logits.max()) / params.temperature)
    return weights / weights.sum()


@pytest.mark.parametrize("size", [2, 300, 50257])
@pytest.mark.parametrize("options", FILTERS, ids=str)
def test_filters_of_the_reference_equal_transformers(options: dict[str, float], size: int) -> None:
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
        assert np.abs(distribution(logits, params) - expected).max() < 2e-5


@settings(max_examples=200, deadline=None)
@given(
    size=st.integers(1, 300) | st.sampled_from([4096, 4097, 20000, 50257]),
    scale=st.sampled_from([0.0, 0.01, 1.0, 3.0, 30.0]),
    temperature=st.sampled_from([0.0, 1e-3, 0.7, 1.0, 50.0]),
    k=st.sampled_from([0, 1, 2, 50, 300, 5000]),
    p=st.sampled_from([1.0, 1e-6, 0.3, 0.95, 0.9999]),
    min_p=st.sampled_from([0.0, 0.05, 1.0]),
    ties=st.booleans(),
    banned=st.booleans(),
    seed=st.integers(0, 2**64 - 1),
)
def test_tokens_equal_the_reference(
    size: int,
    scale: float,
    temperature: float,
    k: int,
    p: float,
    min_p: float,
    ties: bool,
    banned: bool,
    seed: int,
) -> None:
    logits = random_logits(seed % 2**32, size, scale)
    if ties:
        logits = np.round(logits)
    if banned:
        logits[np.random.default_rng(seed).integers(0, size, size // 2)] = -np.inf
        logits[seed % size] = 1.0
    params = SamplingParams(temperature=temperature, top_k=k, top_p=p, min_p=min_p)
    expected = [choose(logits, params, seed, 0, draw) for draw in range(3)]
    assert draw_many(logits, params, 3, seed).tolist() == expected


def test_rows_do_not_depend_on_each_other() -> None:
    logits = np.stack([random_logits(seed, 1000) for seed in range(6)])
    all_params = [SamplingParams(**options) for options in FILTERS[:5]]  # type: ignore[arg-type]
    all_params.append(SamplingParams(temperature=0))
    each = [sampling_of(params, 1) for params in all_params]
    together = RowSampling(
        *(np.concatenate([getattr(row, name) for row in each])
          for name in ("temperature", "top_k", "top_p", "min_p", "seed", "stream", "draw"))
    )  # fmt: skip
    alone = [int(choose_tokens(logits[[i]], row)[0]) for i, row in enumerate(each)]
    assert choose_tokens(logits, together).tolist() == alone


_TOKENS = """
import numpy as np, sys
sys.path[:0] = [{tests!r}]
from engine.test_sampler import FILTERS, draw_many, random_logits
from gpt2fast import _C
from gpt2fast.sampling_params import SamplingParams
assert _C.isa() == {isa!r}
for options in FILTERS:
    for size, scale in ((70, 1.0), (50257, 0.01), (50257, 3.0)):
        print(draw_many(random_logits(1, size, scale), SamplingParams(**options), 20).tolist())
"""


def test_every_instruction_set_chooses_the_same_tokens() -> None:
    def tokens(isa: str) -> str:
        script = _TOKENS.format(tests=str(Path(__file__).parents[1]), isa=isa)
        environment = {**os.environ, "GPT2FAST_FORCE_ISA": isa}
        found = subprocess.run(
            [sys.executable, "-c", script], env=environment, capture_output=True, text=True
        )
        assert found.returncode == 0, found.stderr
        return found.stdout

    first, *others = [tokens(isa) for isa in _C.available_isas()]
    assert first.count("\n") == 3 * len(FILTERS)
    assert all(other == first for other in others)


def chi_square_limit(freedom: int) -> float:
    """The 99.99 % quantile by Wilson and Hilferty's approximation."""
    part = 2 / (9 * freedom)
    return freedom * (1 - part + 3.719 * math.sqrt(part)) ** 3


@pytest.mark.parametrize("options", [*FILTERS, {"top_k": 5}, {"top_p": 0.5}], ids=str)
def test_draws_follow_the_distribution(options: dict[str, float]) -> None:
    params = SamplingParams(**options)  # type: ignore[arg-type]
    logits = random_logits(4, 200, scale=1.5)
    draws = 100_000
    counts = np.bincount(draw_many(logits, params, draws), minlength=len(logits))
    expected = distribution(logits, params) * draws
    assert (counts[expected == 0] == 0).all()
    common = expected >= 5
    rare = expected[~common].sum()
    statistic = ((counts - expected)[common] ** 2 / expected[common]).sum()
    if rare > 0:
        statistic += (counts[~common].sum() - rare) ** 2 / rare
    assert statistic < chi_square_limit(int(common.sum()))


def test_noise_of_streams_draws_and_seeds_is_independent() -> None:
    keys = [(seed, stream, draw) for seed in (0, 1, 2**64 - 1) for stream in (0, 1)
            for draw in range(20)]  # fmt: skip
    table = np.stack([noise(512, *key) for key in keys])
    assert len(np.unique(table)) == table.size
    correlations = np.corrcoef(table) - np.eye(len(keys))
    assert np.abs(correlations).max() < 6 / math.sqrt(512)


def test_top_k_1_is_greedy_and_top_k_beyond_the_vocabulary_is_off() -> None:
    logits = random_logits(0, 100)
    best = int(logits.argmax())
    assert draw_many(logits, SamplingParams(temperature=0), 1).tolist() == [best]
    assert (draw_many(logits, SamplingParams(top_k=1), 10) == best).all()
    everything = draw_many(logits, SamplingParams(), 10)
    assert (draw_many(logits, SamplingParams(top_k=100), 10) == everything).all()


def test_repetition_penalty_equals_transformers() -> None:
    torch = pytest.importorskip("torch")
    warpers = pytest.importorskip("transformers.generation.logits_process")
    logits, tokens = random_logits(1, 500), [3, 3, 7, 499, 20]
    for penalty in (0.5, 1.3, 5.0):
        warper = warpers.RepetitionPenaltyLogitsProcessor(penalty)
        expected = warper(torch.tensor([tokens]), torch.tensor(logits)[None])[0].numpy()
        params = SamplingParams(repetition_penalty=penalty)
        np.testing.assert_allclose(process(logits, params, tokens, 2), expected, rtol=1e-6)


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
    split=st.integers(1, 20),
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
        temperature=0,
        repetition_penalty=repetition,
        presence_penalty=presence,
        frequency_penalty=frequency,
        logit_bias=bias,
    )
    logits = random_logits(2, 30)
    before = logits.copy()
    expected = plain_process(logits, params, tokens, num_prompt)
    reference = process(logits, params, tokens, num_prompt)
    np.testing.assert_allclose(reference, expected, rtol=1e-4, atol=1e-4)
    sequence, token = sampled(logits, params, tokens, num_prompt)
    np.testing.assert_array_equal(logits, before)  # the runner's buffer is not ours to change
    if sequence.processing is not None:
        sequence.processing.apply(logits)
        np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)
    assert token == int(logits.argmax())


def test_tokens_are_seen_as_they_come() -> None:
    params = SamplingParams(temperature=0, frequency_penalty=1.0)
    logits = random_logits(2, 30)
    sequence, _ = sampled(logits, params, [1, 2, 3], 2)
    sequence.token_ids += [3, 7]
    sampling_by_host([sequence])
    processed = logits.copy()
    assert sequence.processing is not None
    sequence.processing.apply(processed)
    expected = plain_process(logits, params, sequence.token_ids, 2)
    np.testing.assert_allclose(processed, expected, rtol=1e-5)


def test_min_tokens_bans_stop_tokens() -> None:
    params = SamplingParams(temperature=0, min_tokens=2, stop_token_ids=[4, 5])
    logits = random_logits(3, 10)
    logits[4], logits[5] = 50, 40
    assert sampled(logits, params, [1, 2, 3], 2)[1] not in (4, 5)
    assert sampled(logits, params, [1, 2, 3, 6], 2)[1] == 4
    assert np.isneginf(process(logits, params, [1, 2, 3], 2, [4, 5])[[4, 5]]).all()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("penalty", [1.0, 1.5])
def test_damaged_logits_are_refused(bad: float, temperature: float, penalty: float) -> None:
    logits = random_logits(6, 20)
    logits[13] = bad
    params = SamplingParams(temperature=temperature, repetition_penalty=penalty)
    with pytest.raises(CheckpointError, match="logit"):
        sampled(logits, params, [1, 2], 1)


def test_tiny_temperature_is_the_argmax() -> None:
    logits = random_logits(7, 100)
    assert draw_many(logits, SamplingParams(temperature=1e-40), 1).tolist() == [logits.argmax()]


def test_extreme_temperatures() -> None:
    logits = np.array([-3e38, 0.0, 3e38, 1.0], dtype=np.float32)
    assert (draw_many(logits, SamplingParams(temperature=1e-30), 10) == 2).all()
    flat = np.array([-3.0, 0.0, 3.0, 1.0], dtype=np.float32)
    counts = np.bincount(draw_many(flat, SamplingParams(temperature=1e6), 4000), minlength=4)
    assert (np.abs(counts - 1000) < 150).all()


def test_an_overflow_is_blamed_on_what_made_it() -> None:
    params = SamplingParams(repetition_penalty=0.01)
    large = np.array([3e38, 1.0], dtype=np.float32)
    with pytest.raises(OptionError, match="penalties"):
        sampled(large, params, [0, 0], 1)
    damaged = np.array([np.nan, 1.0], dtype=np.float32)
    with pytest.raises(CheckpointError, match="weights are damaged"):
        sampled(damaged, params, [0, 0], 1)
    left = np.array([1.0, -np.inf, 3.0], dtype=np.float32)
    banned = SamplingParams(min_tokens=2, stop_token_ids=[0, 2])
    with pytest.raises(OptionError, match="min_tokens"):
        sampled(left, banned, [0, 0], 1)


def test_a_ban_does_not_hide_damaged_logits() -> None:
    logits = random_logits(8, 20)
    logits[4] = np.nan
    params = SamplingParams(temperature=0, min_tokens=2, stop_token_ids=[4])
    with pytest.raises(CheckpointError, match="logit"):
        sampled(logits, params, [1, 2], 1)


@pytest.mark.parametrize("options", [{"top_p": 1e-46}, {"min_tokens": 2**31, "max_tokens": None}])
def test_extreme_options_are_no_error(options: dict[str, float]) -> None:
    params = SamplingParams(**options)  # type: ignore[arg-type]
    logits = random_logits(9, 20)
    assert sampled(logits, params, [1, 2], 1)[1] >= 0


_FLUSHED = """
import sys
sys.path[:0] = [{tests!r}]
import numpy as np, torch
from gpt2fast.sampling_params import SamplingParams
from engine.test_sampler import draw_many
logits = np.array([1.0, 1e-3, 0.0, -1.0], np.float32)
expected = draw_many(logits, SamplingParams(top_p=0.6), 500).tolist()
assert torch.set_flush_denormal(True)
assert draw_many(logits, SamplingParams(top_p=0.6), 500).tolist() == expected
"""


def test_a_process_that_flushes_subnormals_gets_the_same_tokens() -> None:
    pytest.importorskip("torch")
    script = _FLUSHED.format(tests=str(Path(__file__).parents[1]))
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
