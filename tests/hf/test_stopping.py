"""Where texts stop, and how they are streamed on the way."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from support.hf_pair import (
    NO_END,
    ON_THE_RUNNER,
    close,
    pair,
    same,
    same_texts,
    seeded,
    texts,
    torch,
    transformers,
)

BaseStreamer = transformers.generation.streamers.BaseStreamer
pytestmark = ON_THE_RUNNER

MODES: dict[str, dict[str, Any]] = {
    "greedy": {"do_sample": False},
    "sample": {"do_sample": True},
    "beams": {"do_sample": False, "num_beams": 3},
}
PROMPTS = ["It was a bright cold day", "The"]


class Odd(transformers.StoppingCriteria):
    """Each text ends behind an odd token; notes what it is asked about."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        self.seen.append(input_ids.clone())
        return input_ids[:, -1] % 2 == 1


@pytest.mark.parametrize("end", [None, 90], ids=str)
@pytest.mark.parametrize("mode", MODES)
def test_criteria_of_one_s_own(mode: str, end: Any) -> None:
    """Without an end token, a text that has stopped goes on beside those that have not."""
    models, criteria = pair(), [Odd(), Odd()]
    given = {"max_new_tokens": 20, "eos_token_id": end, "pad_token_id": 0, **MODES[mode]}
    given["attention_mask"] = torch.ones_like(texts())
    results = []
    for model, each in zip(models, criteria, strict=True):
        torch.manual_seed(1)
        own = transformers.StoppingCriteriaList([each])
        results.append(model.generate(texts(), stopping_criteria=own, **given))
    assert torch.equal(*results)
    same(criteria[0].seen, criteria[1].seen)
    assert len(criteria[1].seen) > 1
    if mode != "beams":
        assert results[1].shape[1] < 32


@pytest.mark.parametrize("mode", MODES)
def test_no_time(mode: str) -> None:
    """Of no seconds, one token is made."""
    want = same_texts(*pair(), texts(), max_time=0.0, max_new_tokens=20, **MODES[mode])
    assert want.shape[1] == 13


@pytest.mark.parametrize("mode", MODES)
def test_strings_that_stop(mode: str, speaking: Any, tokenizer: Any) -> None:
    prompts = tokenizer(PROMPTS, return_tensors="pt", padding=True)
    given = {"max_new_tokens": 20, "tokenizer": tokenizer, **MODES[mode], **prompts}
    ids = given.pop("input_ids")
    free = same_texts(*speaking, ids, **given)
    piece = tokenizer.decode(free[0, ids.shape[1] + 3])[-2:]  # it need not be a whole token
    stopped = same_texts(*speaking, ids, stop_strings=[piece, "never said"], **given)
    assert not torch.equal(stopped, free)


class Notes(BaseStreamer):
    """What a streamer is given, and when it ends."""

    def __init__(self) -> None:
        self.values: list[Any] = []

    def put(self, value: Any) -> None:
        self.values.append(value.clone())

    def end(self) -> None:
        self.values.append("end")


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"do_sample": True},
        {"return_dict_in_generate": True, "output_scores": True},
        {"prompt_lookup_num_tokens": 3, "eos_token_id": 1},
        {"max_new_tokens": 1},
        {"eos_token_id": list(range(2, 211, 3))},
    ],
    ids=str,
)
def test_a_streamer_is_given_each_token(more: dict[str, Any]) -> None:
    models, streams = pair(), [Notes(), Notes()]
    given = {"max_new_tokens": 9, "pad_token_id": 1, "eos_token_id": None, **more}
    results = []
    for model, streamer in zip(models, streams, strict=True):
        torch.manual_seed(1)
        mask = torch.ones_like(texts(1))
        results.append(model.generate(texts(1), attention_mask=mask, streamer=streamer, **given))
    same(*results)
    same(streams[0].values, streams[1].values)
    assert len(streams[1].values) > 2


def test_generate_with_scores_processors_and_a_streamer() -> None:
    class Ban(transformers.LogitsProcessor):
        def __call__(self, input_ids: Any, scores: Any) -> Any:
            scores = scores.clone()
            scores[:, input_ids[0, -1]] = -float("inf")
            return scores

    class Notes:
        def __init__(self) -> None:
            self.tokens: list[int] = []

        def put(self, value: Any) -> None:
            self.tokens += value.flatten().tolist()

        def end(self) -> None:
            self.tokens.append(-1)

    ours, theirs = pair()
    ids, notes, results = texts(1), [Notes(), Notes()], []
    for model, streamer in zip((ours, theirs), notes, strict=True):
        results.append(
            model.generate(
                ids, attention_mask=torch.ones_like(ids), do_sample=False, streamer=streamer,
                logits_processor=transformers.LogitsProcessorList([Ban()]),
                output_scores=True, output_logits=True, return_dict_in_generate=True, **NO_END,
            )
        )  # fmt: skip
    assert torch.equal(results[0].sequences, results[1].sequences)
    assert notes[0].tokens == notes[1].tokens
    close(torch.stack(results[0].logits), torch.stack(results[1].logits))
    close(torch.stack(results[0].scores), torch.stack(results[1].scores))


def test_a_streamer_is_refused_where_transformers_refuses_it() -> None:
    for model in pair():
        with pytest.raises(ValueError, match="streamer"):
            model.generate(texts(), num_beams=2, streamer=Notes(), max_new_tokens=3)


def test_words_are_streamed(speaking: Any, tokenizer: Any, capsys: Any) -> None:
    prompt = tokenizer(PROMPTS[:1], return_tensors="pt")
    printed = []
    for model in speaking:
        streamer = transformers.TextStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
        model.generate(**prompt, streamer=streamer, max_new_tokens=12, do_sample=False)
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1]
    assert len(printed[1]) > 12


def test_words_are_streamed_from_another_thread(speaking: Any, tokenizer: Any) -> None:
    prompt = tokenizer(PROMPTS[:1], return_tensors="pt")
    heard = []
    for model in speaking:
        streamer = transformers.TextIteratorStreamer(tokenizer, skip_prompt=True, timeout=60)
        given = {**prompt, "streamer": streamer, "max_new_tokens": 12, "do_sample": False}
        thread = threading.Thread(target=model.generate, kwargs=given)
        thread.start()
        heard.append(list(streamer))
        thread.join()
    assert heard[0] == heard[1]
    assert len(heard[1]) > 3


def test_words_are_streamed_to_a_loop(speaking: Any, tokenizer: Any) -> None:
    async def listen(model: Any) -> list[str]:
        streamer = transformers.AsyncTextIteratorStreamer(tokenizer, timeout=60)
        given = {**tokenizer(PROMPTS[:1], return_tensors="pt"), "streamer": streamer}
        thread = threading.Thread(target=model.generate, kwargs={**given, "max_new_tokens": 9})
        thread.start()
        found = [piece async for piece in streamer]
        thread.join()
        return found

    heard = [asyncio.run(listen(model)) for model in speaking]
    assert heard[0] == heard[1]
    assert len(heard[1]) > 3


class Whole(transformers.StoppingCriteria):
    """Numbers in place of truth values."""

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        return (input_ids[:, -1] % 3 == 0).long() * 3


class Writes(transformers.StoppingCriteria):
    """Puts another token where one was chosen."""

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        if input_ids.shape[1] % 3 == 0:
            input_ids[:, -1] = 7
        return torch.zeros(len(input_ids), dtype=torch.bool)


@pytest.mark.parametrize("criterion", [Whole, Writes])
@pytest.mark.parametrize("mode", [{}, {"do_sample": True}], ids=str)
def test_criteria_of_other_kinds(criterion: Any, mode: dict[str, Any]) -> None:
    ours, theirs = pair()
    given = {**NO_END, **mode, "stopping_criteria": [criterion()]}
    want = same_texts(ours, theirs, texts(), **given)
    assert criterion is Whole or bool((want[:, 14:24:3] == 7).all())


@pytest.mark.parametrize("least", [{"min_new_tokens": 9}, {"min_length": 20}], ids=str)
@pytest.mark.parametrize("mode", [{}, {"do_sample": True, "top_k": 20}], ids=str)
def test_an_end_that_is_no_token_bars_none(least: dict[str, Any], mode: dict[str, Any]) -> None:
    """-1 is how many say: never."""
    ours, theirs = pair(tie_word_embeddings=False)
    for model in (ours, theirs):
        model.lm_head.weight.data[-1] *= 8
    given = {"max_new_tokens": 12, "eos_token_id": -1, **least, **mode}
    assert bool((same_texts(ours, theirs, texts(), **given) == 210).any())


def test_a_streamer_that_writes() -> None:
    class Writer(BaseStreamer):
        def put(self, value: Any) -> None:
            value.fill_(9)

        def end(self) -> None:
            pass

    ours, theirs = pair()
    given = {**NO_END, "attention_mask": torch.ones_like(texts(1))}
    found, want = (model.generate(texts(1), streamer=Writer(), **given) for model in (ours, theirs))
    assert torch.equal(found[:, 12:], want[:, 12:])


def test_texts_that_have_ended_cost_the_others_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sampling goes on in one call for all of them."""
    from gpt2fast.hf.generation import fused_sampling

    ours, theirs = pair()
    given = {"do_sample": True, "top_k": 50, "top_p": 0.9, "eos_token_id": list(range(2, 60))}
    given |= {"max_new_tokens": 24, "pad_token_id": 1, "attention_mask": torch.ones_like(texts(8))}
    want = seeded(lambda: theirs.generate(texts(8), **given))
    ends = (want == 1).any(1)
    assert bool(ends.any())
    assert not bool(ends.all())
    monkeypatch.setattr(fused_sampling, "multinomial", None)
    assert torch.equal(seeded(lambda: ours.generate(texts(8), **given)), want)
