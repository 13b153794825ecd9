"""Beam search gives the hypotheses and scores of transformers' ``num_beams``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from engine.mock_runner import EOS
from engine.oracle import MODEL, assert_clean, make_engine, run

from gpt2fast.engine.llm import LLM
from gpt2fast.sampling_params import BeamSearchParams

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
