"""Decoding under constraints, which act through processors of logits."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest

from support.hf_pair import (
    ON_THE_RUNNER,
    pair,
    same,
    same_texts,
    seeded,
    texts,
    torch,
    transformers,
)

pytestmark = ON_THE_RUNNER

MODES: dict[str, dict[str, Any]] = {
    "greedy": {"do_sample": False},
    "sample": {"do_sample": True, "top_k": 0},
    "beams": {"do_sample": False, "num_beams": 3, "num_return_sequences": 3},
}
NUMBER = r"-?[0-9]{2,4}(\.[0-9]{1,3})?"


@pytest.mark.parametrize("mode", MODES)
def test_tokens_that_a_prefix_allows(mode: str) -> None:
    """Another set for each text of the batch, and for each last token."""
    asked: list[tuple[int, int]] = []

    def allowed(row: int, ids: Any) -> list[int]:
        asked.append((row, len(ids)))
        first = (int(ids[-1]) * 7 + row) % 200
        return list(range(first, first + 9))

    ours, theirs = pair()
    given = {"max_new_tokens": 9, "eos_token_id": None, "prefix_allowed_tokens_fn": allowed}
    want = same_texts(ours, theirs, texts(), **given, **MODES[mode])
    half = len(asked) // 2
    assert asked[:half] == asked[half:]
    assert {row for row, _ in asked} == {0, 1, 2}
    for row, text in enumerate(want.tolist()):
        row //= MODES[mode].get("num_return_sequences", 1)
        for last, token in pairwise(text[11:]):
            assert 0 <= token - (last * 7 + row) % 200 < 9


class States(transformers.LogitsProcessor):
    """A machine of three states, one for each text: which tokens may come, and what comes then.

    As libraries for grammars do, it follows each text by its last token, and writes into the
    scores that it is given.
    """

    def __init__(self) -> None:
        self.states: list[int] | None = None

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        if self.states is None:
            self.states = [0] * len(input_ids)
        else:
            pairs = zip(self.states, input_ids[:, -1].tolist(), strict=True)
            self.states = [(state + token) % 3 for state, token in pairs]
        for row, state in enumerate(self.states):
            forbidden = torch.ones(scores.shape[1], dtype=torch.bool)
            forbidden[20 * state + 5 : 20 * state + 25] = False
            scores[row].masked_fill_(forbidden, -float("inf"))
        return scores


@pytest.mark.parametrize("mode", ["greedy", "sample"])
def test_a_machine_of_states(mode: str) -> None:
    given = {"max_new_tokens": 12, "eos_token_id": None, **MODES[mode]}
    given |= {"output_scores": True, "output_logits": True, "return_dict_in_generate": True}
    given["attention_mask"] = torch.ones_like(texts())
    found, want = (
        seeded(
            lambda m=m: m.generate(
                texts(), logits_processor=transformers.LogitsProcessorList([States()]), **given
            )
        )
        for m in pair()
    )
    same(found, want)
    for text in want.sequences[:, 12:].tolist():
        state = 0
        for token in text:
            assert 20 * state + 5 <= token < 20 * state + 25
            state = (state + token) % 3


def check_numbers(speaking: Any, tokenizer: Any, mode: str, constraint: Callable[[], Any]) -> None:
    """Equal texts, which go on with a number; ``constraint`` gives arguments for one call."""
    prompts = tokenizer(["It was", "The old"], return_tensors="pt")
    given = {**prompts, **MODES[mode], "max_new_tokens": 10}
    found, want = (seeded(lambda m=m: m.generate(**given, **constraint())) for m in speaking)
    assert torch.equal(found, want)
    for text in tokenizer.batch_decode(want[:, 2:], skip_special_tokens=True):
        assert re.fullmatch(NUMBER, text)


@pytest.mark.parametrize("mode", ["greedy", "sample"])
def test_xgrammar(mode: str, speaking: Any, tokenizer: Any) -> None:
    xgrammar = pytest.importorskip("xgrammar")
    processors = pytest.importorskip("xgrammar.contrib.hf")
    facts = xgrammar.TokenizerInfo.from_huggingface(tokenizer, vocab_size=50257)
    grammar = xgrammar.GrammarCompiler(facts).compile_regex(NUMBER)
    check_numbers(
        speaking, tokenizer, mode,
        lambda: {"logits_processor": [processors.LogitsProcessor(grammar)]},
    )  # fmt: skip


@pytest.mark.parametrize("mode", MODES)
def test_lm_format_enforcer(mode: str, speaking: Any, tokenizer: Any) -> None:
    enforcer = pytest.importorskip("lmformatenforcer")
    name = "lmformatenforcer.integrations.transformers"  # not for each version of transformers
    integration = pytest.importorskip(name, exc_type=ImportError)
    parser = enforcer.RegexParser(NUMBER)
    allowed = integration.build_transformers_prefix_allowed_tokens_fn(tokenizer, parser)
    check_numbers(speaking, tokenizer, mode, lambda: {"prefix_allowed_tokens_fn": allowed})
