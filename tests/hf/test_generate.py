"""``generate``: the modes, where texts end, the forms of output."""

from __future__ import annotations

from typing import Any

import pytest

from support.hf_pair import (
    ANYWHERE,
    NO_END,
    ON_THE_RUNNER,
    close,
    left_padding,
    pair,
    same,
    same_outcome,
    same_texts,
    seeded,
    texts,
    torch,
    transformers,
)

MODES: list[dict[str, Any]] = [
    {"do_sample": False},
    {"do_sample": False, "repetition_penalty": 1.3, "no_repeat_ngram_size": 2},
    {"do_sample": True, "top_k": 20, "temperature": 0.8, "num_return_sequences": 2},
    {"do_sample": True, "top_p": 0.8},
    {"do_sample": False, "num_beams": 4},
    {"do_sample": False, "num_beams": 4, "num_return_sequences": 3, "length_penalty": 0.5},
    {"do_sample": True, "num_beams": 3},
    {"do_sample": False, "use_cache": False},
    {"do_sample": True, "num_beams": 3, "num_return_sequences": 2, "top_k": 0, "temperature": 2.0},
    {"do_sample": True, "top_k": 0, "top_p": 0.3, "num_return_sequences": 4},
]


@ON_THE_RUNNER
@pytest.mark.parametrize("padded", [False, True], ids=["whole", "padded"])
@pytest.mark.parametrize("mode", MODES, ids=str)
def test_generate(mode: dict[str, Any], padded: bool) -> None:
    ours, theirs = pair()
    ids = texts()
    mask = left_padding(*ids.shape) if padded else torch.ones_like(ids)
    found = []
    for model in (ours, theirs):
        torch.manual_seed(1)
        found.append(model.generate(ids, attention_mask=mask, **NO_END, **mode))
    assert torch.equal(*found)


@ON_THE_RUNNER
@pytest.mark.parametrize("ends", [[17, 40, 90], list(range(2, 211, 3))], ids=["three", "seventy"])
@pytest.mark.parametrize("early", [False, True, "never"], ids=str)
def test_beams_end_as_they_do_in_transformers(early: Any, ends: list[int]) -> None:
    ours, theirs = pair()
    ids = texts(4, 12)
    given = {"attention_mask": left_padding(4, 12)} if len(ends) == 3 else {}
    for more in ({}, {"length_penalty": -0.3, "num_return_sequences": 5}):
        same_texts(
            ours, theirs, ids, num_beams=5, max_new_tokens=10, do_sample=False, eos_token_id=ends,
            early_stopping=early, output_scores=True, return_dict_in_generate=True, **given, **more,
        )  # fmt: skip


@ON_THE_RUNNER
@pytest.mark.parametrize("end", [None, 17, [17, 40, 90]], ids=str)
@pytest.mark.parametrize("how", ["kwargs", "config", "max_length", "no mask", "positional", "min"])
def test_greedy_texts_end_as_they_do_in_transformers(how: str, end: Any) -> None:
    """In a loop of our own: transformers' is not entered."""
    ours, theirs = pair()
    theirs.generation_config.eos_token_id = ours.generation_config.eos_token_id = end
    ids = texts(4)
    mask = left_padding(*ids.shape) if how in ("kwargs", "config") else torch.ones_like(ids)
    given: dict[str, Any] = {"attention_mask": mask, "do_sample": False, "pad_token_id": 3}
    if how == "config":
        given["generation_config"] = transformers.GenerationConfig(
            max_new_tokens=40, eos_token_id=end, pad_token_id=3
        )
    elif how == "max_length":
        given["max_length"] = 52
    else:
        given["max_new_tokens"] = 40
    if how == "no mask":
        del given["attention_mask"]
    if how == "min":
        given["min_new_tokens"] = 25
    args = (ids,) if how == "positional" else ()
    given |= {} if args else {"input_ids": ids}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transformers.GPT2LMHeadModel, "_sample", None)
        found = ours.generate(*args, **given)
    assert torch.equal(found, theirs.generate(*args, **given))


CALLS: dict[str, dict[str, Any]] = {
    "nothing": {},
    "ends by default": {"max_new_tokens": 20},
    "no end, by kwargs": {"max_new_tokens": 20, "eos_token_id": None},
    "no end, minus one": {"max_new_tokens": 20, "eos_token_id": -1, "pad_token_id": 0},
    "a tensor": {"max_new_tokens": 20, "eos_token_id": torch.tensor([9, 12])},
    "no padding token": {"max_new_tokens": 20, "eos_token_id": 44, "pad_token_id": None},
    "shorter than the prompt": {"max_length": 5},
    "none": {"max_new_tokens": 0},
    "both lengths": {"max_length": 40, "max_new_tokens": 3},
    "least and most": {"max_length": 40, "min_length": 38, "eos_token_id": list(range(2, 90))},
    "least above most": {"max_new_tokens": 4, "min_new_tokens": 9},
    "many, greedily": {"num_return_sequences": 2, "do_sample": False},
    "more than beams": {"num_return_sequences": 3, "num_beams": 2, "do_sample": False},
    "unknown": {"max_new_token": 4},
    "sampling's alone": {"temperature": 0.3, "top_k": 3, "do_sample": False, "max_new_tokens": 4},
    "temperature 0": {"temperature": 0.0, "do_sample": True, "max_new_tokens": 4},
    "positions": {"position_ids": torch.arange(2, 14).expand(3, 12), "max_new_tokens": 5},
    "kinds of tokens": {"token_type_ids": texts() % 2, "max_new_tokens": 5},
    "mask of booleans": {"attention_mask": left_padding(3, 12).bool(), "max_new_tokens": 5},
    "mask with a hole": {"attention_mask": (texts() % 5 > 0).long(), "max_new_tokens": 5},
    "mask on the right": {"attention_mask": left_padding(3, 12).flip(1), "max_new_tokens": 5},
    "mask of nothing": {"attention_mask": torch.zeros_like(texts()), "max_new_tokens": 5},
    "labels": {"labels": texts(), "max_new_tokens": 3},
    "use_cache None": {"use_cache": None, "max_new_tokens": 5},
    "keep": {"logits_to_keep": 3, "max_new_tokens": 3},
    "remote": {"trust_remote_code": True, "max_new_tokens": 3},
    "synced": {"synced_gpus": False, "max_new_tokens": 3},
}


@ANYWHERE
@pytest.mark.parametrize("given", CALLS.values(), ids=CALLS)
def test_arguments(given: dict[str, Any]) -> None:
    """Those that contradict each other, too: the same result or the same error."""
    same_outcome(*pair(), lambda model: model.generate(inputs=texts(), **given))


PROMPTS: dict[str, Any] = {
    "none": lambda model: model.generate(max_new_tokens=6),
    "begin": lambda model: model.generate(bos_token_id=7, max_new_tokens=6),
    "empty": lambda model: model.generate(texts()[:, :0], max_new_tokens=6),
    "one": lambda model: model.generate(texts()[0], max_new_tokens=6),
    "padding's token": lambda model: model.generate(
        torch.where(texts() % 3 == 0, 1, texts()), max_new_tokens=6
    ),
    "outside": lambda model: model.generate(texts() + 200, max_new_tokens=6),
    "twice": lambda model: model.generate(texts(), input_ids=texts(), max_new_tokens=6),
    "32 bits": lambda model: model.generate(texts().int(), max_new_tokens=6),
    "to the last position": lambda model: model.generate(texts(2, 90), max_length=96),
    "and one more": lambda model: model.generate(texts(2, 90), max_length=97),
    "beyond, in beams": lambda model: model.generate(texts(2, 90), max_length=98, num_beams=2),
    "a list": lambda model: model.generate([[1, 2]], max_new_tokens=6),
    "config second": lambda model: model.generate(
        texts(), transformers.GenerationConfig(max_new_tokens=4, eos_token_id=90)
    ),
}


@ANYWHERE
@pytest.mark.parametrize("call", PROMPTS.values(), ids=PROMPTS)
def test_prompts(call: Any) -> None:
    ours, theirs = pair()
    same_outcome(ours, theirs, call)


BEYOND: dict[str, dict[str, Any]] = {
    "its end": {"inputs": texts(2, 90), "max_length": 98},
    "a full context": {"inputs": texts(2, 96), "max_new_tokens": 6},
}


@ON_THE_RUNNER
@pytest.mark.parametrize("given", BEYOND.values(), ids=BEYOND)
def test_beyond_the_context_the_error_is_theirs_and_says_more(given: dict[str, Any]) -> None:
    ours, theirs = pair()
    with pytest.raises(IndexError):
        theirs.generate(**given)
    with pytest.raises(IndexError, match=r"96 tokens, .* the model's context"):
        ours.generate(**given)


@ON_THE_RUNNER
@pytest.mark.parametrize("where", ["the model's", "given", "given and the model's"])
def test_settings_are_merged_as_they_are_in_transformers(where: str) -> None:
    """Of the call, of a config that it is given, of the model's own."""
    models = pair()
    own = {"max_new_tokens": 7, "repetition_penalty": 1.7, "eos_token_id": 33, "top_k": 5}
    given: dict[str, Any] = {}
    for model in models:
        if "model's" in where:
            model.generation_config.update(**own)
        if "given" in where:
            config = transformers.GenerationConfig(max_length=30, num_beams=2, pad_token_id=8)
            given["generation_config"] = config
    same_texts(*models, texts(), **given)
    same_texts(*models, texts(), do_sample=True, **given)
    assert models[0].generation_config.to_dict() == models[1].generation_config.to_dict()


@ON_THE_RUNNER
@pytest.mark.parametrize("mode", MODES[:7], ids=str)
def test_all_that_a_call_can_return(mode: dict[str, Any]) -> None:
    ours, theirs = pair()
    given = {**NO_END, **mode, "attention_mask": left_padding(3, 12), "output_scores": True}
    given |= {"output_logits": True, "return_dict_in_generate": True, "max_new_tokens": 8}
    found, want = (seeded(lambda m=m: m.generate(texts(), **given)) for m in (ours, theirs))
    assert len(want.scores) == len(want.logits) == 8
    same(found, want)
    beams = [each.get("beam_indices") for each in (found, want)]
    same(*(
        model.compute_transition_scores(each.sequences, each.scores, beam, normalize_logits=True)
        for model, each, beam in zip((ours, theirs), (found, want), beams, strict=True)
    ))  # fmt: skip


def test_results_with_and_without_gradients_wanted() -> None:
    """``generate`` wants none itself, and the setting is left as it was."""
    ours, theirs = pair()
    for guard in (torch.no_grad, torch.enable_grad, torch.inference_mode):
        with guard():
            wants = torch.is_grad_enabled()
            same_texts(ours, theirs, texts(), max_new_tokens=6)
            assert torch.is_grad_enabled() == wants


@ANYWHERE
def test_a_model_in_training_generates_with_its_dropout() -> None:
    ours, theirs = pair()
    plain = same_texts(ours, theirs, texts(), **NO_END)
    for model in (ours, theirs):
        model.train()
    assert not torch.equal(plain, same_texts(ours, theirs, texts(), **NO_END))


@ON_THE_RUNNER
def test_scores_are_the_caller_s_own() -> None:
    """What a caller writes into them is not read again."""
    ours, theirs = pair()
    given = {**NO_END, "output_logits": True, "return_dict_in_generate": True}
    found = ours.generate(texts(), **given)
    for each in found.logits:
        each.fill_(7)
    found = ours.generate(texts(), **given)
    close(torch.stack(found.logits), torch.stack(theirs.generate(texts(), **given).logits))


@ON_THE_RUNNER
@pytest.mark.parametrize(
    "more", [{}, {"do_sample": True}, {"output_logits": True, "return_dict_in_generate": True}]
)
def test_more_texts_than_a_step_takes(more: dict[str, Any]) -> None:
    ours, theirs = pair(n_layer=1)
    same_texts(ours, theirs, texts(600, 4), max_new_tokens=4, **more)


@ANYWHERE
def test_no_texts_at_all() -> None:
    same_outcome(*pair(), lambda model: model.generate(texts()[:0], max_new_tokens=3))
