"""Requests from beginning to end: how they stop, fail, are refused and are aborted."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gpt2fast._C import BlockPool
from gpt2fast.engine.engine import Engine
from gpt2fast.engine.outputs import RequestOutput
from gpt2fast.engine.scoring import build_scoring_request
from gpt2fast.errors import CacheExhaustedError, ContextOverflowError, OptionError, RequestError
from gpt2fast.sampling_params import BeamSearchParams, SamplingParams
from support.engine import oracle
from support.engine.mock_runner import EOS, VOCAB_SIZE, MockRunner
from support.engine.oracle import (
    MODEL,
    TOKENIZER,
    assert_clean,
    expected_tokens,
    make_engine,
    run,
    score,
)

PROMPT = list(b"once upon")


@pytest.fixture(autouse=True, params=[False, True], ids=["engine", "runner"])
def who_chooses(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test here with tokens chosen by the engine, and by the runner."""
    monkeypatch.setattr(oracle, "BY_RUNNER", request.param)


def only(prompt: list[int], params: SamplingParams, **options: Any) -> RequestOutput:
    engine = make_engine(**options)
    engine.add_request(prompt, params)
    (output,) = run(engine).values()
    assert_clean(engine)
    return output


def greedy(**options: Any) -> SamplingParams:
    return SamplingParams(**{"temperature": 0, "max_tokens": 30, "ignore_eos": True, **options})


GREEDY_TOKENS = expected_tokens(PROMPT, greedy())


def test_length() -> None:
    output = only(PROMPT, greedy()).outputs[0]
    assert output.token_ids == GREEDY_TOKENS
    assert (output.finish_reason, output.stop_reason) == ("length", None)
    assert output.text == TOKENIZER.decode(GREEDY_TOKENS)
    assert (output.logprobs, output.cumulative_logprob) == (None, None)


@pytest.mark.parametrize("include", [True, False])
def test_stop_token_is_kept_in_the_ids(include: bool) -> None:
    stop = GREEDY_TOKENS[11]
    params = greedy(stop_token_ids=[stop], include_stop_str_in_output=include)
    output = only(PROMPT, params).outputs[0]
    end = GREEDY_TOKENS.index(stop) + 1
    assert output.token_ids == GREEDY_TOKENS[:end]
    assert (output.finish_reason, output.stop_reason) == ("stop", stop)
    assert output.text == TOKENIZER.decode(GREEDY_TOKENS[: end if include else end - 1])


def test_end_of_text_token() -> None:
    likely = {EOS: 3.0}
    params = SamplingParams(seed=1, max_tokens=100, logit_bias=likely)
    output = only(PROMPT, params).outputs[0]
    assert output.token_ids == expected_tokens(PROMPT, params)
    assert output.token_ids[-1] == EOS
    assert (output.finish_reason, output.stop_reason) == ("stop", None)
    ignoring = SamplingParams(seed=1, max_tokens=100, logit_bias=likely, ignore_eos=True)
    ignored = only(PROMPT, ignoring).outputs[0]
    assert len(ignored.token_ids) == 100
    assert EOS in ignored.token_ids[:-1]


def test_min_tokens_delays_end_and_stop_string() -> None:
    always = {EOS: 100.0}
    params = SamplingParams(temperature=0, max_tokens=20, min_tokens=7, logit_bias=always)
    assert len(only(PROMPT, params).outputs[0].token_ids) == 8
    text = only(PROMPT, greedy(logit_bias={97: 100.0}, stop="aa", min_tokens=5)).outputs[0]
    assert text.token_ids == [97] * 5
    assert text.text == "aaa"


def test_stop_string_spans_tokens_and_is_cut() -> None:
    params = SamplingParams(seed=1, max_tokens=80, logit_bias=dict.fromkeys(b"abc", 9.0))
    whole = only(PROMPT, params).outputs[0].text
    stop = whole[20:25]
    end = whole.index(stop)
    for include in (True, False):
        stopping = SamplingParams(
            seed=1,
            max_tokens=80,
            logit_bias=dict.fromkeys(b"abc", 9.0),
            stop=["never", stop],
            include_stop_str_in_output=include,
        )
        output = only(PROMPT, stopping).outputs[0]
        assert output.text == whole[: end + (len(stop) if include else 0)]
        assert (output.finish_reason, output.stop_reason) == ("stop", stop)
        assert len(output.token_ids) == end + len(stop)  # one byte is one token here


def test_deltas_join_to_the_output() -> None:
    engine = make_engine()
    params = SamplingParams(seed=5, n=2, max_tokens=40, stop="\ufffd\ufffd")
    engine.add_request(PROMPT, params)
    deltas, finished = [], []
    while engine.has_unfinished():
        result = engine.step()
        deltas += result.deltas
        finished += result.finished
    for output in finished[0].outputs:
        mine = [delta for delta in deltas if delta.completion == output.index]
        assert "".join(delta.text for delta in mine) == output.text
        assert [delta.token_id for delta in mine] == output.token_ids
        assert [delta.finish_reason for delta in mine[:-1]] == [None] * (len(mine) - 1)
        assert mine[-1].finish_reason == output.finish_reason


def test_logprobs_are_of_the_raw_logits() -> None:
    params = SamplingParams(seed=2, max_tokens=5, logprobs=3, temperature=0.5, top_k=4)
    output = only(PROMPT, params).outputs[0]
    assert output.logprobs is not None
    total = 0.0
    for position, (token, step) in enumerate(zip(output.token_ids, output.logprobs, strict=True)):
        logits = MODEL.logits(PROMPT + output.token_ids[:position]).astype(float)
        expected = logits - np.log(np.exp(logits).sum())
        best = np.argsort(-expected)[:3].tolist()
        assert list(step) == [token, *(other for other in best if other != token)]
        assert [step[other].rank for other in best] == [1, 2, 3]
        for other, entry in step.items():
            assert entry.logprob == pytest.approx(expected[other], abs=1e-5)
            assert entry.decoded_token == TOKENIZER.decode([other], skip_special_tokens=False)
        total += step[token].logprob
    assert output.cumulative_logprob == pytest.approx(total)


def test_overflow_error_has_numbers_and_remedies() -> None:
    engine = make_engine()
    with pytest.raises(ContextOverflowError) as caught:
        engine.add_request([1] * 100, SamplingParams(max_tokens=50))
    for part in ("100", "50", "128", "by 22", "at most 28", "stop", "slide"):
        assert part in str(caught.value)
    with pytest.raises(ContextOverflowError, match="no room"):
        engine.add_request([1] * 128, SamplingParams(max_tokens=None))
    with pytest.raises(ContextOverflowError, match="no room"):
        engine.add_request([1] * 128, SamplingParams(overflow="stop"))
    with pytest.raises(ContextOverflowError) as beams:
        engine.add_request([1] * 100, BeamSearchParams(max_tokens=50))
    assert "overflow" not in str(beams.value)
    assert not engine.has_unfinished()


@pytest.mark.parametrize("options", [{"overflow": "stop"}, {"max_tokens": None}])
def test_stop_at_the_end_of_the_context(options: dict[str, Any]) -> None:
    output = only([1] * 100, greedy(**{"max_tokens": 50, **options})).outputs[0]
    assert len(output.token_ids) == 28
    assert output.finish_reason == "length"


@pytest.mark.parametrize("num_prompt", [10, 128, 300])
@pytest.mark.parametrize("max_batch_tokens", [5, 512])
def test_slide_keeps_the_last_half(num_prompt: int, max_batch_tokens: int) -> None:
    prompt = [number % 251 for number in range(num_prompt)]
    params = greedy(overflow="slide", max_tokens=200)
    output = only(prompt, params, max_batch_tokens=max_batch_tokens).outputs[0]
    assert output.token_ids == expected_tokens(prompt, params)
    assert len(output.token_ids) == 200


@pytest.mark.parametrize(
    ("prompt", "message"),
    [([], "empty"), ([1, VOCAB_SIZE], "token 1"), ([-1], "token 0"), ([1.5], "token 0"),
     (["a"], "token 0"), ([True], "token 0")],
)  # fmt: skip
def test_bad_prompt_is_refused(prompt: list[Any], message: str) -> None:
    engine = make_engine()
    with pytest.raises(RequestError, match=message):
        engine.add_request(prompt, SamplingParams())
    assert not engine.has_unfinished()


@pytest.mark.parametrize(
    "options", [{"stop_token_ids": [300]}, {"logit_bias": {300: 1.0}}, {"logprobs": 301}], ids=str
)
def test_options_beyond_the_vocabulary_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match=next(iter(options))):
        make_engine().add_request(PROMPT, SamplingParams(**options))


def test_without_tokenizer() -> None:
    runner = MockRunner(model=MODEL)
    engine = Engine(runner, BlockPool(runner.num_blocks, runner.block_size))
    with pytest.raises(OptionError, match="stop_token_ids"):
        engine.add_request(PROMPT, SamplingParams(stop="x"))
    sampled = engine.add_request(PROMPT, greedy(logprobs=1))
    searched = engine.add_request(PROMPT, BeamSearchParams(max_tokens=3))
    found = run(engine)
    assert found[sampled].outputs[0].token_ids == GREEDY_TOKENS
    assert found[sampled].outputs[0].text == found[searched].outputs[0].text == ""
    assert len(found[searched].outputs[0].token_ids) == 3


def test_request_id_in_use_is_refused() -> None:
    engine = make_engine()
    engine.add_request(PROMPT, greedy(), request_id="x")
    with pytest.raises(RequestError, match="in use"):
        engine.add_request(PROMPT, greedy(), request_id="x")


@pytest.mark.parametrize("steps", [0, 1, 2, 5])
def test_abort_frees_and_leaves_others_alone(steps: int) -> None:
    engine = make_engine(max_batch_tokens=8)
    engine.add_request(PROMPT, greedy(), request_id="stays")
    engine.add_request(PROMPT, SamplingParams(n=3, max_tokens=30), request_id="goes")
    engine.add_request(PROMPT, BeamSearchParams(max_tokens=30), request_id="beams go")
    for _ in range(steps):
        engine.step()
    assert engine.abort("goes")
    assert engine.abort("beams go")
    assert not engine.abort("goes")
    found = run(engine)
    assert list(found) == ["stays"]
    assert found["stays"].outputs[0].token_ids == GREEDY_TOKENS
    assert_clean(engine)


def test_failing_step_ends_its_requests_only() -> None:
    engine = make_engine(max_batch_tokens=4, fail_on_token=299)
    engine.add_request([299], greedy(), request_id="bad")
    engine.add_request([5], SamplingParams(n=2, max_tokens=4), request_id="same step")
    engine.add_request(PROMPT, greedy(), request_id="later")
    first = engine.step().finished
    assert {output.request_id for output in first} >= {"bad", "same step"}
    for output in first:
        assert str(output.error) == "the device is on fire"
    engine.add_request(PROMPT, greedy(), request_id="after")
    found = run(engine)
    assert found["after"].outputs[0].token_ids == GREEDY_TOKENS
    assert_clean(engine)


def test_nan_logits_end_their_request_only() -> None:
    engine = make_engine()
    good = engine.add_request(PROMPT, greedy())
    bad = [engine.add_request([42], params) for params in (greedy(), BeamSearchParams())]
    step = engine.runner.step

    def damaged(batch: Any) -> Any:
        logits = step(batch).copy()
        logits[np.isin(batch.logit_rows, np.flatnonzero(batch.token_ids == 42))] = np.nan
        return logits

    engine.runner.step = damaged  # type: ignore[method-assign]
    found = run(engine)
    assert all("logit" in str(found[each].error) for each in bad)
    assert found[good].outputs[0].token_ids == GREEDY_TOKENS
    assert_clean(engine)


def test_teacher_forced_logits() -> None:
    engine = make_engine(max_batch_tokens=5)
    tokens = list(range(23))
    expected = MODEL.rows(np.array(tokens), len(tokens))
    for _ in range(2):  # the second time the prefix is known, and yet all rows are there
        np.testing.assert_array_equal(score(engine, tokens), expected)
    with pytest.raises(ContextOverflowError, match="128"):
        score(engine, [1] * 129)
    with pytest.raises(RequestError, match="empty"):
        score(engine, [])
    assert_clean(engine)


def test_scoring_waits_for_room() -> None:
    engine = make_engine(num_blocks=12, max_batch_tokens=64)
    engine.add_request(PROMPT, greedy(), request_id="x")
    engine.step()
    tokens = list(range(45))
    request = build_scoring_request(engine.runner.config, tokens, 48)
    engine.enqueue(request)
    found = run(engine)
    logits = found[request.request_id].prompt_logits
    np.testing.assert_array_equal(logits, MODEL.rows(np.array(tokens), 45))
    assert found["x"].outputs[0].token_ids == GREEDY_TOKENS
    assert engine.stats()["preemptions"] == 0
    with pytest.raises(CacheExhaustedError, match="49 tokens need more KV cache"):
        score(engine, [1] * 49)


def test_scoring_does_not_stop_others() -> None:
    engine = make_engine(samples=False, max_batch_tokens=6)
    engine.add_request(PROMPT, greedy(), request_id="x")
    engine.step()
    tokens = list(range(23))
    request = build_scoring_request(engine.runner.config, tokens, 1000)
    engine.enqueue(request)
    deltas, output = 0, None
    while output is None:
        result = engine.step()
        deltas += len(result.deltas)
        output = next((o for o in result.finished if o.request_id == request.request_id), None)
    assert deltas == 5  # beside a chunk of five tokens each
    np.testing.assert_array_equal(output.prompt_logits, MODEL.rows(np.array(tokens), 23))
    assert output.outputs == []
    assert run(engine)["x"].outputs[0].token_ids == GREEDY_TOKENS


def test_metrics_are_in_order() -> None:
    times = only(PROMPT, greedy()).metrics
    assert times.arrival_time < times.scheduled_time < times.first_token_time < times.finished_time
