"""Who runs when: decode first, then prefill in order of arrival, within the budgets."""

from __future__ import annotations

import numpy as np
import pytest

from gpt2fast.engine.engine import Engine
from gpt2fast.errors import CacheExhaustedError
from gpt2fast.sampling_params import SamplingParams
from support.engine.oracle import assert_clean, batches_of, expected_tokens, make_engine, run

GREEDY = SamplingParams(temperature=0, max_tokens=6, ignore_eos=True)


def chunk_sizes(engine: Engine) -> list[list[int]]:
    """For each step so far the new tokens of its sequences."""
    batches = batches_of(engine)
    return [np.diff(batch.query_starts).tolist() for batch in batches]


def test_decode_first_then_chunks_in_order_of_arrival() -> None:
    engine = make_engine(max_batch_tokens=8)
    engine.add_request([1, 2, 3], GREEDY)
    engine.step()
    engine.add_request(list(range(10)), GREEDY)
    engine.add_request(list(range(100, 110)), GREEDY)
    for _ in range(4):
        engine.step()
    assert chunk_sizes(engine) == [[3], [1, 7], [1, 3, 4], [1, 1, 6], [1, 1, 1]]


def test_logits_are_asked_for_sampled_rows_only() -> None:
    engine = make_engine(max_batch_tokens=8)
    engine.add_request(list(range(20)), GREEDY)
    for _ in range(4):
        engine.step()
    batches = batches_of(engine)
    assert [batch.logit_rows.tolist() for batch in batches] == [[], [], [3], [0]]


def test_max_seqs_and_first_come_first_served() -> None:
    engine = make_engine(max_seqs=2, max_batch_tokens=64)
    ids = [engine.add_request([number], GREEDY) for number in range(5)]
    finished = []
    while engine.has_unfinished():
        finished += [output.request_id for output in engine.step().finished]
        assert engine.stats()["running"] <= 2
    assert finished == ids


def test_a_long_prompt_does_not_stop_the_others() -> None:
    engine = make_engine(max_batch_tokens=4)
    engine.add_request([1], GREEDY, request_id="short")
    engine.step()
    engine.add_request(list(range(100)), GREEDY, request_id="long")
    for _ in range(5):
        assert [delta.request_id for delta in engine.step().deltas] == ["short"]


def test_the_newest_is_preempted_and_the_oldest_never() -> None:
    engine = make_engine(num_blocks=12, prefix_caching=False, max_batch_tokens=64)
    long = SamplingParams(temperature=0, max_tokens=20, ignore_eos=True)
    prompts = [list(range(start, start + 16)) for start in (0, 50)]
    ids = [engine.add_request(prompt, long) for prompt in prompts]
    order, lengths = [], []
    while engine.has_unfinished():
        result = engine.step()
        lengths.append([delta.request_id for delta in result.deltas].count(ids[0]))
        order += result.finished
    assert [output.request_id for output in order] == ids
    assert lengths[:20] == [1] * 20  # the oldest gets a token in each step until it is done
    assert engine.stats()["preemptions"] >= 1
    for output, prompt in zip(order, prompts, strict=True):
        assert output.outputs[0].token_ids == expected_tokens(prompt, long)


@pytest.mark.parametrize("max_batch_tokens", [4, 64])
def test_what_cannot_fit_alone_fails_alone(max_batch_tokens: int) -> None:
    engine = make_engine(num_blocks=8, max_batch_tokens=max_batch_tokens)
    engine.add_request([1, 2], GREEDY, request_id="before")
    engine.add_request(list(range(40)), GREEDY, request_id="prompt too long")
    grows = SamplingParams(temperature=0, max_tokens=60, ignore_eos=True)
    engine.add_request([3, 4], grows, request_id="grows too long")
    engine.add_request([5, 6], GREEDY, request_id="after")
    found = run(engine)
    for name in ("prompt too long", "grows too long"):
        error = found[name].error
        assert isinstance(error, CacheExhaustedError)
        assert "32" in str(error)
        assert "kv_cache_tokens" in str(error)
        assert found[name].outputs == []
    for name, prompt in (("before", [1, 2]), ("after", [5, 6])):
        assert found[name].outputs[0].token_ids == expected_tokens(prompt, GREEDY)
    assert_clean(engine)


def test_completions_beyond_the_places_take_turns() -> None:
    engine = make_engine(max_seqs=2)
    params = SamplingParams(n=5, seed=9, max_tokens=7)
    engine.add_request([1, 2, 3], params, request_id="x")
    outputs = run(engine)["x"].outputs
    assert [output.index for output in outputs] == list(range(5))
    assert [each.token_ids for each in outputs] == [
        expected_tokens([1, 2, 3], params, index) for index in range(5)
    ]


@pytest.mark.parametrize("num_blocks", range(26, 34))
def test_an_older_prefill_preempts_a_decode_scheduled_before_it(num_blocks: int) -> None:
    """A completion that found no place is run again, slowly, beside a newer request's decode."""
    engine = make_engine(
        num_blocks=num_blocks, max_batch_tokens=4, max_seqs=3, prefix_caching=False
    )
    requests = {
        "several": (list(range(41)), SamplingParams(n=3, seed=1, max_tokens=50, ignore_eos=True)),
        "short": ([7], SamplingParams(seed=2, max_tokens=2, ignore_eos=True)),
        "newest": ([8], SamplingParams(seed=3, max_tokens=60, ignore_eos=True)),
    }
    for name, (prompt, params) in requests.items():
        engine.add_request(prompt, params, request_id=name)
    found = run(engine)
    assert engine.stats()["preemptions"] >= 1
    for name, (prompt, params) in requests.items():
        tokens = [each.token_ids for each in found[name].outputs]
        assert tokens == [expected_tokens(prompt, params, index) for index in range(params.n)]
    assert_clean(engine)
