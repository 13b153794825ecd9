"""A request's tokens depend on nothing but the request: not on its batch, the order, the chunks,
preemption or a reused prefix. The oracle computes each request alone, without batches or cache."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt2fast.engine.engine import Engine
from gpt2fast.sampling_params import BeamSearchParams, SamplingParams
from support.engine import oracle
from support.engine.oracle import assert_clean, batches_of, expected_tokens, make_engine, run

STEM = list(b"a common beginning of")
REQUESTS: list[tuple[list[int], SamplingParams]] = [
    ([*STEM, 1], SamplingParams(temperature=0, max_tokens=30)),
    ([*STEM, 2], SamplingParams(seed=1, max_tokens=25, n=3)),
    (STEM, SamplingParams(seed=2, max_tokens=9, top_k=10, repetition_penalty=1.5)),
    ([5], SamplingParams(seed=3, max_tokens=40, top_p=0.5, frequency_penalty=0.5)),
    (list(range(90)), SamplingParams(seed=4, max_tokens=12, min_p=0.2, min_tokens=10)),
    (STEM[:16], SamplingParams(temperature=0, max_tokens=20, logit_bias={7: 3.0})),
    ([*STEM, 1], SamplingParams(seed=1, max_tokens=5, n=2, temperature=0.7)),
]
EXPECTED = [
    [expected_tokens(prompt, params, index) for index in range(params.n)]
    for prompt, params in REQUESTS
]


@pytest.fixture(autouse=True, params=[False, True], ids=["engine", "runner"])
def who_chooses(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test here with tokens chosen by the engine, and by the runner."""
    monkeypatch.setattr(oracle, "BY_RUNNER", request.param)


def outputs_of(engine: Engine, order: list[int]) -> list[list[list[int]]]:
    for number in order:
        prompt, params = REQUESTS[number]
        engine.add_request(prompt, params, request_id=str(number))
    found = run(engine)
    assert all(output.error is None for output in found.values())
    return [
        [completion.token_ids for completion in found[str(number)].outputs]
        for number in range(len(REQUESTS))
    ]


IN_ORDER = list(range(len(REQUESTS)))


@pytest.mark.parametrize("prefix_caching", [True, False])
@pytest.mark.parametrize("max_batch_tokens", [1, 3, 16, 512])
@pytest.mark.parametrize("num_blocks", [32, 200])
def test_chunks_cache_and_pool_size(
    prefix_caching: bool, max_batch_tokens: int, num_blocks: int
) -> None:
    engine = make_engine(prefix_caching, max_batch_tokens=max_batch_tokens, num_blocks=num_blocks)
    assert outputs_of(engine, IN_ORDER) == EXPECTED
    stats = engine.stats()
    assert (stats["hit_tokens"] > 0) == prefix_caching
    assert_clean(engine)


@settings(max_examples=25, deadline=None)
@given(
    order=st.permutations(IN_ORDER),
    max_batch_tokens=st.integers(1, 60),
    max_seqs=st.integers(1, 10),
    block_size=st.sampled_from([1, 3, 16]),
    spare=st.integers(0, 60),
)
def test_any_order_and_any_sizes(
    order: list[int], max_batch_tokens: int, max_seqs: int, block_size: int, spare: int
) -> None:
    num_blocks = -(-(103 + spare) // block_size)  # the longest request alone fits
    engine = make_engine(
        max_batch_tokens=max_batch_tokens,
        max_seqs=max_seqs,
        block_size=block_size,
        num_blocks=num_blocks,
    )
    assert outputs_of(engine, order) == EXPECTED
    assert_clean(engine)


def test_tiny_pool_preempts_and_changes_nothing() -> None:
    engine = make_engine(num_blocks=27)
    assert outputs_of(engine, IN_ORDER) == EXPECTED
    assert engine.stats()["preemptions"] > 0
    assert_clean(engine)


def test_alone_and_one_after_the_other() -> None:
    engine = make_engine()
    for number, (prompt, params) in enumerate(REQUESTS):
        engine.add_request(prompt, params, request_id=str(number))
        found = run(engine)[str(number)]
        assert [each.token_ids for each in found.outputs] == EXPECTED[number]


def test_arrival_while_others_run() -> None:
    engine, rng, found = make_engine(), random.Random(3), {}
    for number, (prompt, params) in enumerate(REQUESTS):
        engine.add_request(prompt, params, request_id=str(number))
        for _ in range(rng.randrange(6)):
            found.update({each.request_id: each for each in engine.step().finished})
    found.update(run(engine))
    tokens = [[each.token_ids for each in found[str(number)].outputs] for number in IN_ORDER]
    assert tokens == EXPECTED


def test_prompt_of_n_completions_is_run_once() -> None:
    engine = make_engine(prefix_caching=False)
    engine.add_request(STEM, SamplingParams(n=4, seed=1, max_tokens=6, ignore_eos=True))
    run(engine)
    batches = batches_of(engine)
    assert sum(len(batch.token_ids) for batch in batches) == len(STEM) + 4 * 5
    assert engine.stats()["copies"] == 3  # the partly filled block: all but the last who writes


def test_unseeded_requests_differ() -> None:
    engine = make_engine()
    for _ in range(2):
        engine.add_request(STEM, SamplingParams(max_tokens=10))
    first, second = run(engine).values()
    assert first.outputs[0].token_ids != second.outputs[0].token_ids


@pytest.mark.parametrize("num_blocks", [14, 20, 64])
@pytest.mark.parametrize("max_seqs", [1, 3, 8])
def test_beams_under_pressure(num_blocks: int, max_seqs: int) -> None:
    """Beams wait for each other, take turns where they do not all fit, and stay the same."""
    params = BeamSearchParams(beam_width=4, max_tokens=12, n=4)
    prompts = [STEM, STEM[3:], [9, 9]]

    def beams(**options: int) -> list[list[list[int]]]:
        engine = make_engine(**options)  # type: ignore[arg-type]
        ids = [engine.add_request(prompt, params) for prompt in prompts]
        found = run(engine)
        assert_clean(engine)
        assert all(found[each].error is None for each in ids)
        return [[output.token_ids for output in found[each].outputs] for each in ids]

    assert beams(num_blocks=num_blocks, max_seqs=max_seqs) == beams(num_blocks=400, max_seqs=64)
