"""Beam search gives the hypotheses and scores of transformers' ``num_beams``."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpt2fast.engine.beam_search import BeamSearch
from gpt2fast.engine.input_processor import build_request
from gpt2fast.engine.llm import LLM
from gpt2fast.engine.logprobs import log_sum_exp
from gpt2fast.engine.sequence import Request, Sequence
from gpt2fast.sampling_params import BeamSearchParams
from support.engine.mock_runner import EOS, mock_config
from support.engine.oracle import MODEL, assert_clean, make_engine, run

torch = pytest.importorskip("torch")

PROMPTS = [[5], [1, 2, 3, 4, 5, 6, 7], list(range(40, 60))]
STOP = [11, 12, 13, 80]
PAD = 99
SIZES = {"vocab_size": 101, "n_positions": 64, "n_embd": 24, "n_layer": 2, "n_head": 2}


@pytest.fixture(scope="module")
def models(make_checkpoint: Callable[..., tuple[Path, Any]]) -> Any:
    path, hugging_face = make_checkpoint(std=0.3, eos_token_id=STOP, bos_token_id=0, **SIZES)
    with LLM(path, num_threads=1) as llm:
        yield llm, hugging_face


@pytest.mark.parametrize("early_stopping", [False, True, "never"])
@pytest.mark.parametrize("length_penalty", [-1.0, 0.0, 1.0, 2.0])
@pytest.mark.parametrize("beam_width", [2, 5])
def test_equals_transformers(
    models: Any, beam_width: int, length_penalty: float, early_stopping: Any
) -> None:
    llm, hugging_face = models
    params = BeamSearchParams(
        beam_width=beam_width,
        n=beam_width,
        max_tokens=24,
        length_penalty=length_penalty,
        early_stopping=early_stopping,
    )
    ours = llm.beam_search(PROMPTS, params)
    for prompt, output in zip(PROMPTS, ours, strict=True):
        with torch.no_grad():
            expected = hugging_face.generate(
                torch.tensor([prompt]),
                attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
                do_sample=False,
                num_beams=beam_width,
                num_return_sequences=beam_width,
                max_new_tokens=24,
                length_penalty=length_penalty,
                early_stopping=early_stopping,
                eos_token_id=STOP,
                pad_token_id=PAD,
                return_dict_in_generate=True,
                output_scores=True,
            )
        rows = expected.sequences[:, len(prompt) :].tolist()
        scores = expected.sequences_scores.tolist()
        for found, row, score in zip(output.outputs, rows, scores, strict=True):
            length = len(found.token_ids)
            assert found.token_ids == row[:length]
            assert set(row[length:]) <= {PAD}
            assert (found.finish_reason == "stop") == (found.token_ids[-1] in STOP)
            assert found.cumulative_logprob / length**length_penalty == pytest.approx(
                score, rel=1e-4
            )
    assert llm.stats()["sequences"] == 0


def test_hypotheses_of_both_kinds_were_compared(models: Any) -> None:
    llm, _ = models
    outputs = llm.beam_search(PROMPTS, BeamSearchParams(beam_width=5, n=5, max_tokens=24))
    reasons = {each.finish_reason for output in outputs for each in output.outputs}
    assert reasons == {"stop", "length"}


def test_one_beam_that_never_stops_is_greedy() -> None:
    engine, prompt = make_engine(), [1, 2, 3]
    engine.add_request(prompt, BeamSearchParams(beam_width=1, max_tokens=15, ignore_eos=True))
    (output,) = run(engine).values()
    tokens = list(prompt)
    for _ in range(15):
        tokens.append(int(MODEL.logits(tokens).argmax()))
    assert output.outputs[0].token_ids == tokens[3:]
    assert output.outputs[0].finish_reason == "length"
    assert_clean(engine)


def test_more_beams_than_tokens_in_the_vocabulary() -> None:
    engine = make_engine(max_seqs=400, num_blocks=2000)
    engine.add_request([7], BeamSearchParams(beam_width=200, n=200, max_tokens=2))
    (output,) = run(engine).values()
    assert len({tuple(each.token_ids) for each in output.outputs}) == 200
    assert_clean(engine)


def test_text_leaves_the_stop_token_out() -> None:
    engine = make_engine()
    params = BeamSearchParams(beam_width=4, n=4, max_tokens=60, length_penalty=-2.0)
    engine.add_request(list(b"ab"), params)
    (output,) = run(engine).values()
    stopped = [each for each in output.outputs if each.finish_reason == "stop"]
    assert stopped
    for each in stopped:
        assert each.token_ids[-1] == EOS
        assert each.stop_reason is None
        assert "endoftext" not in each.text


def searched(params: BeamSearchParams, rows: list[np.ndarray]) -> list[tuple[int, int, float]]:
    """(beam, token, score) of the beams after a first step on ``rows[0]`` and one on all rows."""
    root = Sequence(request_of(params), 0, [1])
    search = BeamSearch(params, frozenset(), 10, root)
    search.observe(root, rows[0])
    search.beams = [
        (Sequence(root.request, rank, [1, each.token]), each.score)
        for rank, each in enumerate(search.advance())
    ]
    for (beam, _), row in zip(search.beams, rows, strict=True):
        search.observe(beam, row)
    return [(each.parent.index, each.token, float(each.score)) for each in search.advance()]


def request_of(params: BeamSearchParams) -> Request:
    return build_request(mock_config(), [1], params)


def test_equal_scores_go_by_beam_then_by_token() -> None:
    # Few values, so that nearly every choice is among equals.
    rng = np.random.default_rng(3)
    rows = [rng.integers(0, 3, size=40).astype(np.float32) for _ in range(6)]
    params = BeamSearchParams(beam_width=6)
    first = rows[0] - np.float32(log_sum_exp(rows[0]))
    beams = sorted(range(40), key=lambda token: (-first[token], token))[:6]
    expected = sorted(
        (
            (rank, token, float(np.float32(first[beams[rank]] + np.float32(value - total))))
            for rank, row in enumerate(rows)
            for total in [log_sum_exp(row)]
            for token, value in enumerate(row)
        ),
        key=lambda each: (-round(each[2], 4), each[0], each[1]),
    )[:6]
    found = searched(params, rows)
    assert [each[:2] for each in found] == [each[:2] for each in expected]
    assert [each[2] for each in found] == pytest.approx([each[2] for each in expected])


def test_the_widest_search_stays_quick() -> None:
    rng = np.random.default_rng(0)
    rows = [rng.normal(size=2000).astype(np.float32) for _ in range(256)]
    rows[7][:] = 1.0  # all tokens tie, and all are kept until the best are chosen
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        assert len(searched(BeamSearchParams(beam_width=256), rows)) == 256
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.15
