"""Every processor of logits that a generation config switches on, in every mode it acts in."""

from __future__ import annotations

import functools
import json
from typing import Any

import pytest

from support.hf_pair import (
    ANYWHERE,
    ON_THE_RUNNER,
    make,
    pair,
    same,
    same_outcome,
    same_texts,
    seeded,
    texts,
    torch,
    transformers,
)

MODES: dict[str, dict[str, Any]] = {
    "greedy": {"do_sample": False},
    "sample": {"do_sample": True},
    "beams": {"do_sample": False, "num_beams": 3, "num_return_sequences": 2},
    "sampled beams": {"do_sample": True, "num_beams": 2},
}
MANY_ENDS = {"eos_token_id": list(range(2, 211, 4))}
EVERYWHERE: dict[str, dict[str, Any]] = {
    "repetition_penalty": {"repetition_penalty": 1.8},
    "encoder_repetition_penalty": {"encoder_repetition_penalty": 3.0},
    "no_repeat_ngram_size": {"no_repeat_ngram_size": 1},
    "encoder_no_repeat_ngram_size": {"encoder_no_repeat_ngram_size": 1},
    "bad_words_ids": {"bad_words_ids": [[token] for token in range(3, 180)] + [[200, 201]]},
    "min_length": {"min_length": 18, **MANY_ENDS},
    "min_new_tokens": {"min_new_tokens": 6, **MANY_ENDS},
    "forced_bos_token_id": {"forced_bos_token_id": 50},
    "forced_eos_token_id": {"forced_eos_token_id": [60, 61]},
    "sequence_bias": {"sequence_bias": [[[7], 9.0], [[7, 7], -12.0], [[7, 9], 8.0]]},
    "suppress_tokens": {"suppress_tokens": list(range(0, 150))},
    "begin_suppress_tokens": {"begin_suppress_tokens": list(range(0, 170))},
    "exponential_decay_length_penalty": {
        "exponential_decay_length_penalty": (2, 1.4),
        "eos_token_id": 77,
    },
    "guidance_scale": {"guidance_scale": 1.7},
    "renormalize_logits": {"renormalize_logits": True, "num_return_sequences": 1},
    "watermarking_config": {
        "watermarking_config": transformers.WatermarkingConfig(bias=4.0, seeding_scheme="selfhash")
    },
}
IN_SAMPLES: dict[str, dict[str, Any]] = {
    "temperature": {"temperature": 0.5},
    "top_k": {"top_k": 4},
    "top_p": {"top_p": 0.5, "top_k": 0},
    "top_h": {"top_h": 0.4, "top_k": 0},
    "min_p": {"min_p": 0.3},
    "typical_p": {"typical_p": 0.4},
    "epsilon_cutoff": {"epsilon_cutoff": 0.05},
    "eta_cutoff": {"eta_cutoff": 0.1},
    "all together": {
        **{"temperature": 0.7, "top_k": 30, "top_p": 0.9, "typical_p": 0.9, "min_p": 0.01},
        **{"epsilon_cutoff": 1e-3, "eta_cutoff": 1e-3, "repetition_penalty": 1.2},
    },
    "synthid": {
        "watermarking_config": transformers.SynthIDTextWatermarkingConfig(
            keys=[654, 400, 836, 123, 340], ngram_len=3
        )
    },
}
ONE_TEXT_A_PROMPT = {
    "guidance against a prompt": {
        "guidance_scale": 1.7,
        "negative_prompt_ids": texts(3, 20)[:, 12:],
    },
}
CASES = [
    pytest.param(mode, options, id=f"{name}-{mode}")
    for names, modes in (
        (EVERYWHERE, ["greedy", "sample", "beams"]),
        (IN_SAMPLES, ["sample", "sampled beams"]),
        (ONE_TEXT_A_PROMPT, ["greedy", "sample"]),
    )
    for name, options in names.items()
    for mode in modes
]


def generate(model: Any, mode: str, length: int = 12, **options: Any) -> Any:
    ids = texts(3, length)
    given = {"max_new_tokens": 8, "output_scores": True, "return_dict_in_generate": True}
    given |= {"attention_mask": torch.ones_like(ids), "pad_token_id": 1, "eos_token_id": None}
    return seeded(lambda: model.generate(ids, **{**given, **MODES[mode], **options}))


@functools.cache
def without(mode: str, length: int, ends: str) -> Any:
    """Texts that no processor has changed."""
    return generate(make(), mode, length, eos_token_id=json.loads(ends.replace("None", "null")))


@ON_THE_RUNNER
@pytest.mark.parametrize(("mode", "options"), CASES)
def test_processor(mode: str, options: dict[str, Any]) -> None:
    name = next(iter(options))
    if not hasattr(transformers.GenerationConfig(), name):
        pytest.skip(f"transformers {transformers.__version__} has no {name}")
    ours, theirs = pair()
    length = 1 if name == "forced_bos_token_id" else 12  # it comes behind one token
    want = generate(theirs, mode, length, **options)
    same(generate(ours, mode, length, **options), want)
    plain = without(mode, length, str(options.get("eos_token_id")))
    with pytest.raises(AssertionError):  # the processor has done something
        same(plain, want)


@ANYWHERE
@pytest.mark.parametrize("mode", MODES)
def test_invalid_values_are_removed(mode: str) -> None:
    ours, theirs = pair(tie_word_embeddings=False)
    for model in (ours, theirs):
        with torch.no_grad():
            model.lm_head.weight[5] = float("nan")
    options = {"remove_invalid_values": True, "renormalize_logits": True}
    want = generate(theirs, mode, **options)
    assert not torch.stack(want.scores).isnan().any()
    same(generate(ours, mode, **options), want)
    if mode == "greedy":
        same(generate(ours, mode), generate(theirs, mode))


@ON_THE_RUNNER
@pytest.mark.parametrize("mode", MODES)
def test_processors_of_one_s_own(mode: str) -> None:
    """Plain functions, too; they see the same texts and scores, and may write into them."""
    seen: list[Any] = []

    def note(input_ids: Any, scores: Any) -> Any:
        seen.append((input_ids.clone(), scores.clone()))
        scores[:, ::2] = -float("inf")
        return scores

    ours, theirs = pair()
    given = {"logits_processor": transformers.LogitsProcessorList([note])}
    want = generate(theirs, mode, **given)
    expected, seen = seen, []
    same(generate(ours, mode, **given), want)
    assert len(expected) == 8
    same(seen, expected)
    assert bool((want.sequences[:, 12:] % 2 == 1).all())


@ON_THE_RUNNER
def test_probabilities_are_near_in_a_thousand_draws() -> None:
    """Sampling draws from transformers' probabilities: one seed, the same tokens, in all rows."""
    theirs = make()
    ours = pair()[0]
    ids = texts(1).expand(250, 12)
    given = {"max_new_tokens": 4, "do_sample": True, "top_k": 0, "temperature": 3.0}
    given["attention_mask"] = torch.ones_like(ids)
    want, found = (seeded(lambda m=m: m.generate(ids, **given)) for m in (theirs, ours))
    assert len(want[:, 12].unique()) > 50
    assert torch.equal(found, want)


@pytest.mark.parametrize("top_p", [0.01, 0.5, 0.95, 0.999999])
@pytest.mark.parametrize("least", [1, 3])
def test_top_p_keeps_what_a_sort_of_all_keeps(top_p: float, least: int) -> None:
    """Ties among the scores, too; where there are too many scores transformers' own is called."""
    from gpt2fast.hf.generation.processors import fast_processors

    warper = transformers.TopPLogitsWarper(top_p, min_tokens_to_keep=least)
    (step,) = fast_processors(transformers.LogitsProcessorList([warper]))
    assert step is not warper
    draws = torch.Generator().manual_seed(3)
    for kept in (1, 2, 3, 40, 900, 3000):
        plain = torch.randn(4, 3000, generator=draws) * 4
        for scores in (plain, plain.round(decimals=1)):
            border = scores.topk(kept).values[:, -1:]
            given = scores.masked_fill(scores < border, -torch.inf)
            assert torch.equal(step(texts(), given), warper(texts(), given))


@pytest.mark.parametrize("size", [1, 7, 64, 65, 300, 8191, 50257, 50304])
def test_the_softmax_of_some_scores_has_torch_s_bits(size: int) -> None:
    from gpt2fast.hf.generation.processors import softmax_tail

    draws = torch.Generator().manual_seed(size)
    for count in (1, 2, 50, 64, 700):
        for _ in range(10):
            scores = torch.full((size,), -torch.inf)
            some = torch.randn(min(count, size), generator=draws) * 3
            scores[-len(some) :] = some
            want = torch.softmax(scores, dim=-1)[-len(some) :]
            assert torch.equal(softmax_tail(some, size), want)


class Rounded(transformers.LogitsProcessor):
    def __call__(self, input_ids: Any, scores: Any) -> Any:
        return scores.bfloat16()


class Writes(transformers.LogitsProcessor):
    def __call__(self, input_ids: Any, scores: Any) -> Any:
        if input_ids.shape[1] % 3 == 0:
            input_ids[:, -1] = 7
        return scores


@ON_THE_RUNNER
@pytest.mark.parametrize("processor", [Rounded, Writes])
@pytest.mark.parametrize("mode", ["greedy", "sample"])
def test_processors_that_round_or_write(processor: Any, mode: str) -> None:
    ours, theirs = pair()
    given = {"logits_processor": transformers.LogitsProcessorList([processor()])}
    want = generate(theirs, mode, **given)
    # Logits that differ in their last bits may be rounded to neighbours in bfloat16.
    same(generate(ours, mode, **given), want, atol=2**-5 if processor is Rounded else 1e-4)
    assert processor is Rounded or bool((want.sequences[:, 14:18:3] == 7).all())


@ON_THE_RUNNER
def test_the_order_of_processors_counts() -> None:
    """A least length behind top-k bars some of those that top-k left."""
    ends = list(range(2, 120))
    own = [
        transformers.TopKLogitsWarper(20),
        transformers.MinNewTokensLengthLogitsProcessor(12, 8, ends, "cpu"),
    ]
    given = {"max_new_tokens": 8, "top_k": 0, "do_sample": True, "eos_token_id": None}
    own_list = transformers.LogitsProcessorList(own)
    same_texts(*pair(), texts(), logits_processor=own_list, **given)


class Spoils(transformers.LogitsProcessor):
    def __init__(self, value: float) -> None:
        self.value = value

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        scores[:, 5] = self.value
        return scores


@ON_THE_RUNNER
@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_scores_that_are_no_numbers(value: float) -> None:
    own = transformers.LogitsProcessorList([Spoils(value)])
    given = {"do_sample": True, "top_k": 20, "top_p": 0.9, "max_new_tokens": 3}
    given |= {"attention_mask": torch.ones_like(texts()), "logits_processor": own}
    same_outcome(*pair(), lambda model: model.generate(texts(), **given))


@ON_THE_RUNNER
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_another_default_type(dtype: Any) -> None:
    own = transformers.LogitsProcessorList([lambda _, scores: scores])
    given = {"do_sample": True, "top_k": 50, "top_p": 0.8, "max_new_tokens": 40}
    ours, theirs = pair()
    torch.set_default_dtype(dtype)
    try:
        for more in ({}, {"logits_processor": own}):
            same_texts(ours, theirs, texts(8), eos_token_id=None, **given, **more)
    finally:
        torch.set_default_dtype(torch.float32)


@ON_THE_RUNNER
def test_a_processor_that_wants_more_is_refused_behind_a_known_one() -> None:
    class Three:
        def __call__(self, ids: Any, scores: Any, extra: Any) -> Any:
            return scores

    own = transformers.LogitsProcessorList([transformers.TopKLogitsWarper(5), Three()])
    given = {"do_sample": True, "top_k": 0, "max_new_tokens": 3, "logits_processor": own}
    same_outcome(*pair(), lambda model: model.generate(texts(), **given))
