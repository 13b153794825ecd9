"""``LLM`` in every format: what is shared, forked and searched gives what is computed alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpt2fast import LLM, BeamSearchParams, SamplingParams
from support.model_grid import BASE

MakeCheckpoint = Callable[..., tuple[Path, Any]]

FORMATS: list[dict[str, Any]] = [
    {"dtype": "bfloat16"},
    {"dtype": "bfloat16", "kv_cache_dtype": "float32"},
    {"kv_cache_dtype": "bfloat16"},
    {"kv_cache_dtype": "int8"},
    {"quantization": "int8"},
    {"quantization": "int8", "kv_cache_dtype": "int8"},
    {"quantization": "int4"},
    {"quantization": "int4-g32", "kv_cache_dtype": "int8"},
    {"quantization": "int3", "kv_cache_dtype": "float32"},
]
PROMPT = [int(t) for t in np.random.default_rng(0).integers(0, BASE["vocab_size"], 40)]
GREEDY = SamplingParams(temperature=0.0, max_tokens=12, ignore_eos=True)


def tokens(llm: LLM, *prompts: list[int], params: Any = GREEDY) -> list[list[list[int]]]:
    outputs = llm.generate(list(prompts), params)
    return [[list(each.token_ids) for each in output.outputs] for output in outputs]


@pytest.mark.parametrize("options", FORMATS, ids=str)
def test_prefix_batch_and_completions(
    make_checkpoint: MakeCheckpoint, options: dict[str, Any]
) -> None:
    path, _ = make_checkpoint(**BASE)
    prompts = [PROMPT, [*PROMPT[:33], 7, 8], PROMPT[:3]]
    with LLM(path, prefix_caching=False, max_seqs=1, **options) as llm:
        want = [tokens(llm, prompt)[0] for prompt in prompts]
    with LLM(path, max_batch_tokens=9, **options) as llm:
        assert tokens(llm, *prompts) == want
        assert tokens(llm, *prompts) == want
        assert llm.stats()["hit_tokens"] > 0
    # Completions fork the blocks of their prompt: the first writes of each copy a block.
    sampled = SamplingParams(n=4, seed=5, max_tokens=12, ignore_eos=True)
    with LLM(path, **options) as llm:
        (together,) = tokens(llm, PROMPT, params=sampled)
        assert llm.stats()["copies"] > 0
        assert len({tuple(each) for each in together}) > 1
        assert tokens(llm, PROMPT, params=sampled) == [together]
    with LLM(path, prefix_caching=False, max_seqs=1, **options) as llm:
        assert tokens(llm, PROMPT, params=sampled) == [together]


@pytest.mark.parametrize("options", FORMATS, ids=str)
def test_beams_score_what_their_logits_say(
    make_checkpoint: MakeCheckpoint, options: dict[str, Any]
) -> None:
    path, _ = make_checkpoint(**BASE)
    params = BeamSearchParams(beam_width=4, n=4, max_tokens=8, ignore_eos=True, length_penalty=0.0)
    with LLM(path, **options) as llm:
        (output,) = llm.beam_search(PROMPT, params)
        assert llm.stats()["copies"] > 0
        for beam in output.outputs:
            logits = llm.logits(PROMPT + list(beam.token_ids)).astype(np.float64)
            logits -= np.log(np.exp(logits).sum(axis=1, keepdims=True))
            rows = range(len(PROMPT) - 1, len(PROMPT) + 7)
            score = sum(logits[row, t] for row, t in zip(rows, beam.token_ids, strict=True))
            assert beam.cumulative_logprob == pytest.approx(score, abs=1e-4)


def test_auto_keeps_float32_beside_float32_weights(make_checkpoint: MakeCheckpoint) -> None:
    path, _ = make_checkpoint(**BASE)
    for options, want in (
        ({}, "float32"),
        ({"dtype": "float32"}, "float32"),
        ({"dtype": "bfloat16"}, "bfloat16"),
        ({"quantization": "int8"}, "bfloat16"),
    ):
        with LLM(path, **options) as llm:
            runner: Any = llm._open_runner()
            assert runner.kv_cache_dtype == want
