"""``LLM`` over the real C++ runner, a random model and a byte tokenizer."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, models

import gpt2fast
from gpt2fast import LLM, BeamSearchParams, SamplingParams
from gpt2fast.engine.prompts import encode, read_prompt
from gpt2fast.errors import (
    CacheExhaustedError,
    ContextOverflowError,
    GPT2FastError,
    OptionError,
    RequestError,
    UnsupportedError,
)
from support.engine.mock_runner import EOS, VOCAB_SIZE, byte_tokenizer, mock_config

SIZES = {"vocab_size": 300, "n_positions": 96, "n_embd": 32, "n_layer": 2, "n_head": 4}
PROMPTS = ["one", "another, longer one", "ü"]
PARAMS = SamplingParams(seed=3, max_tokens=20, temperature=0.8, top_p=0.9)


@pytest.fixture(scope="module")
def checkpoint(make_checkpoint: Callable[..., tuple[Path, Any]]) -> tuple[Path, Any]:
    path, model = make_checkpoint(std=0.2, eos_token_id=EOS, bos_token_id=EOS, **SIZES)
    byte_tokenizer().save(str(path / "tokenizer.json"))
    return path, model


@pytest.fixture(scope="module")
def llm(checkpoint: tuple[Path, Any]) -> Iterator[LLM]:
    with LLM(checkpoint[0], num_threads=1) as opened:
        yield opened


def texts(llm: LLM, prompts: Any, params: Any = PARAMS) -> list[str]:
    return [output.outputs[0].text for output in llm.generate(prompts, params)]


def assert_idle(llm: LLM) -> None:
    stats = llm.stats()
    assert stats["sequences"] == stats["running"] == stats["waiting"] == stats["used"] == 0


def test_shapes_of_prompts(llm: LLM) -> None:
    together = texts(llm, PROMPTS)
    assert together == [texts(llm, prompt)[0] for prompt in PROMPTS]
    ids = [llm.tokenizer.encode(prompt).ids for prompt in PROMPTS]  # type: ignore[union-attr]
    assert texts(llm, ids) == together
    assert texts(llm, ids[0]) == together[:1]
    assert texts(llm, np.array(ids[1])) == together[1:2]
    assert texts(llm, (PROMPTS[0], ids[1])) == together[:2]
    outputs = llm.generate(PROMPTS, PARAMS)
    assert [output.prompt for output in outputs] == PROMPTS
    assert [output.prompt_token_ids for output in outputs] == ids
    assert_idle(llm)


def test_params_for_each_prompt(llm: LLM) -> None:
    each = [SamplingParams(temperature=0, max_tokens=n) for n in (1, 2, 3)]
    outputs = llm.generate(PROMPTS, each)
    assert [len(output.outputs[0].token_ids) for output in outputs] == [1, 2, 3]


def test_greedy_equals_transformers(llm: LLM, checkpoint: tuple[Path, Any]) -> None:
    torch = pytest.importorskip("torch")
    prompt = [5, 6, 7]
    with torch.no_grad():
        expected = checkpoint[1].generate(
            torch.tensor([prompt]), do_sample=False, max_new_tokens=64, pad_token_id=0
        )
    params = SamplingParams(temperature=0, max_tokens=64)
    output = llm.generate(prompt, params)[0].outputs[0]
    assert output.token_ids == expected[0, 3:].tolist()


def test_logits_equal_transformers_in_any_chunks(checkpoint: tuple[Path, Any]) -> None:
    torch = pytest.importorskip("torch")
    path, model = checkpoint
    tokens = [number * 7 % 300 for number in range(96)]
    with torch.no_grad():
        expected = model(torch.tensor([tokens])).logits[0].numpy()
    found = []
    for max_batch_tokens in (512, 10):
        with LLM(path, max_batch_tokens=max_batch_tokens) as llm:
            found.append(llm.logits(tokens))
    np.testing.assert_allclose(found[0], expected, atol=1e-4)
    np.testing.assert_array_equal(found[0], found[1])
    assert found[0].dtype == np.float32
    assert found[0].shape == (96, 300)


def test_stream_joins_to_generate(llm: LLM) -> None:
    for prompt in PROMPTS:
        stream = llm.stream(prompt, PARAMS)
        assert stream.output is None
        text = "".join(stream)
        assert text == texts(llm, prompt)[0]
        assert stream.output is not None
        assert stream.output.outputs[0].text == text
    assert_idle(llm)


def test_abandoned_streams_free_their_sequences(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    sample = llm._runner.sample
    # The engine does not wait for readers: it would be done before anybody looked.
    slow = lambda *arguments: time.sleep(0.02) or sample(*arguments)  # noqa: E731
    monkeypatch.setattr(llm._runner, "sample", slow)
    params = SamplingParams(temperature=0, max_tokens=60, ignore_eos=True)
    stream = llm.stream("abc", params)
    next(stream)
    assert llm.stats()["sequences"] == 1
    del stream
    assert_idle(llm)
    closed = llm.stream("abc", params)
    next(closed)
    closed.close()
    assert_idle(llm)
    for _ in llm.stream("abc", params):
        break
    assert_idle(llm)


def test_two_threads_share_the_engine(llm: LLM) -> None:
    expected = texts(llm, PROMPTS)
    results: dict[int, Any] = {}

    def work(number: int) -> None:
        if number % 2:
            results[number] = [texts(llm, prompt)[0] for prompt in PROMPTS]
        else:
            results[number] = ["".join(llm.stream(prompt, PARAMS)) for prompt in PROMPTS]

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert results == dict.fromkeys(range(4), expected)
    assert_idle(llm)


def test_a_bad_prompt_runs_nothing_and_harms_nobody(llm: LLM) -> None:
    waiting = llm.stream("abc", PARAMS)
    first = next(waiting)
    for prompts, error in (
        (["fine", []], RequestError),
        (["fine", [300]], RequestError),
        (["fine", "x" * 90], ContextOverflowError),
        (["fine", "\ud800"], RequestError),
        ([], RequestError),
        (5, RequestError),
        (b"bytes", RequestError),
        (["fine", 5], RequestError),
        (["fine", b"a"], RequestError),
        ([b"a"], RequestError),
        ([bytearray(b"a")], RequestError),
        ([{1, 2}], RequestError),
        ({1, 2}, RequestError),
        (frozenset({1}), RequestError),
        ({1: 2}, RequestError),
        (np.array(5), RequestError),
        (None, RequestError),
        ([None], RequestError),
        ({}, RequestError),
        ({"prompt": None}, RequestError),
        ({"prompt": [1, 2]}, RequestError),
        ({"prompt": "a", "multi_modal_data": {"image": 1}}, RequestError),
        ({"input_ids": [1, 2]}, RequestError),
        ([{"prompt": "fine"}, {"prompt_token_ids": [300]}], RequestError),
        (np.array([1.0]), RequestError),
        (np.array([True]), RequestError),
        (np.zeros((1, 1, 2), int), RequestError),
    ):
        with pytest.raises(error):
            llm.generate(prompts, PARAMS)  # type: ignore[arg-type]
    assert first + "".join(waiting) == texts(llm, "abc")[0]
    assert llm.stats()["sequences"] == 0


@pytest.mark.parametrize("prompt", [None, 5, b"abc", {1, 2}, np.array(3)], ids=repr)
def test_one_prompt_of_a_wrong_type_is_refused(llm: LLM, prompt: Any) -> None:
    with pytest.raises(RequestError, match="give a list"):
        llm.stream(prompt)
    with pytest.raises(RequestError, match="give a list"):
        llm.logits(prompt)
    assert_idle(llm)


@pytest.mark.parametrize("model", [None, b"demo", 5, ["demo"]], ids=repr)
def test_a_model_of_a_wrong_type_is_refused(model: Any) -> None:
    with pytest.raises(OptionError, match="model = "):
        LLM(model)


def test_arrays_are_lists_of_tokens(llm: LLM) -> None:
    assert texts(llm, np.array([97, 98])) == texts(llm, [97, 98])
    assert texts(llm, np.array([[97, 98], [99, 100]])) == texts(llm, [[97, 98], [99, 100]])


def test_tensors_are_lists_of_tokens(llm: LLM) -> None:
    torch = pytest.importorskip("torch")
    batch = torch.tensor([[97, 98], [99, 100]])
    assert texts(llm, batch[0]) == texts(llm, [97, 98])
    assert texts(llm, list(batch[0])) == texts(llm, [97, 98])
    assert texts(llm, batch) == texts(llm, [batch[0], "cd"]) == texts(llm, [[97, 98], [99, 100]])
    assert "".join(llm.stream(batch[1], PARAMS)) == texts(llm, "cd")[0]
    np.testing.assert_array_equal(llm.logits(batch[0]), llm.logits([97, 98]))
    for wrong in (torch.tensor([1.0]), torch.tensor([True]), torch.tensor(5), torch.zeros(1, 1, 2)):
        with pytest.raises(RequestError):
            llm.generate(wrong, PARAMS)


def test_calls_as_users_of_vllm_write_them(llm: LLM) -> None:
    expected = texts(llm, ["ab", "cd"])
    prompts: Any = [{"prompt": "ab"}, {"prompt_token_ids": [99, 100]}]
    outputs = llm.generate(prompts, sampling_params=PARAMS, use_tqdm=False)
    assert [output.outputs[0].text for output in outputs] == expected
    assert [output.prompt for output in outputs] == ["ab", None]
    assert texts(llm, {"prompt": "ab", "multi_modal_data": None}) == expected[:1]
    both = llm.generate({"prompt": "said", "prompt_token_ids": [97, 98]}, PARAMS)[0]
    assert (both.prompt, both.prompt_token_ids) == ("said", [97, 98])
    assert both.outputs[0].text == expected[0]
    assert "".join(llm.stream(prompts[0], sampling_params=PARAMS)) == expected[0]
    each = [SamplingParams(max_tokens=n, stop=None, stop_token_ids=None) for n in (1, 2)]  # type: ignore[arg-type]
    outputs = llm.generate(["ab", "cd"], sampling_params=each)
    assert [len(output.outputs[0].token_ids) for output in outputs] == [1, 2]
    with pytest.raises(OptionError, match="no progress bar"):
        llm.generate("ab", use_tqdm=True)


def test_an_empty_prompt_begins_with_the_end_of_text(llm: LLM) -> None:
    (output,) = llm.generate("", PARAMS)
    assert (output.prompt, output.prompt_token_ids) == ("", [EOS])
    assert output.outputs[0].text == texts(llm, [EOS])[0] == "".join(llm.stream("", PARAMS))


def test_an_empty_prompt_where_no_token_begins_a_text() -> None:
    config = replace(mock_config(), eos_token_ids=(), bos_token_id=VOCAB_SIZE)
    with pytest.raises(RequestError, match="prompt is empty, and the model has no begin or end"):
        read_prompt("", byte_tokenizer(), config)


def test_surrogates_and_silent_tokenizers_are_named(llm: LLM) -> None:
    with pytest.raises(RequestError, match=r"surrogate U\+D800"):
        llm.generate("a\ud800")
    silent = Tokenizer(models.BPE(vocab={}, merges=[]))
    with pytest.raises(RequestError, match="no token of the prompt's 3 characters"):
        encode(silent, "abc")


@pytest.mark.parametrize(
    "params", [5, [PARAMS], [PARAMS, None, PARAMS], BeamSearchParams(), "greedy"], ids=repr
)
def test_wrong_params_are_refused(llm: LLM, params: Any) -> None:
    with pytest.raises(OptionError, match="params"):
        llm.generate(PROMPTS, params)


def test_stream_refuses_several_prompts(llm: LLM) -> None:
    for prompts in (["a", "b"], np.array([[97, 98]])):
        with pytest.raises(RequestError, match="as if it were a list of prompts"):
            llm.stream(prompts)  # type: ignore[arg-type]


def test_stream_refuses_several_completions(llm: LLM) -> None:
    with pytest.raises(OptionError, match="n = 2"):
        llm.stream("abc", SamplingParams(n=2))


def test_beam_search_takes_prompts_like_generate(llm: LLM) -> None:
    outputs = llm.beam_search(PROMPTS, BeamSearchParams(beam_width=3, n=2, max_tokens=5))
    assert [len(output.outputs) for output in outputs] == [2, 2, 2]
    with pytest.raises(OptionError, match="BeamSearchParams"):
        llm.beam_search(PROMPTS, PARAMS)  # type: ignore[arg-type]
    assert_idle(llm)


def test_what_the_whole_cache_cannot_hold_is_refused_before_anything_runs(
    checkpoint: tuple[Path, Any],
) -> None:
    def prompt(length: int) -> str:
        return "x" * length

    with LLM(checkpoint[0], kv_cache_tokens=32, num_threads=1) as llm:
        for prompts, remedy in ((["y", prompt(60)], "shorten"), ([prompt(14)], "at most 19")):
            with pytest.raises(CacheExhaustedError, match=f"kv_cache_tokens.*{remedy}"):
                llm.generate(prompts, PARAMS)
        with pytest.raises(CacheExhaustedError, match="kv_cache_tokens"):
            llm.beam_search([prompt(14)], BeamSearchParams(max_tokens=20))
        assert llm.stats()["lookup_tokens"] == 0
        # The largest that fits is run to its end: the last token needs no room.
        whole = SamplingParams(max_tokens=19, ignore_eos=True, n=3, seed=1)
        (output,) = llm.generate(prompt(14), whole)
        assert [len(each.token_ids) for each in output.outputs] == [19, 19, 19]
        beams = BeamSearchParams(max_tokens=19, ignore_eos=True, beam_width=3)
        assert len(llm.beam_search(prompt(14), beams)[0].outputs[0].token_ids) == 19
        assert len(texts(llm, ["a", "b", "c"])) == 3
        assert_idle(llm)


def test_a_window_that_slides_needs_room_for_the_context_alone(
    checkpoint: tuple[Path, Any],
) -> None:
    params = SamplingParams(max_tokens=150, ignore_eos=True, overflow="slide", seed=1)
    with LLM(checkpoint[0], kv_cache_tokens=96, num_threads=1) as llm:
        assert len(llm.generate("ab", params)[0].outputs[0].token_ids) == 150


def test_min_tokens_that_ban_the_whole_vocabulary_are_refused(llm: LLM) -> None:
    everything = range(SIZES["vocab_size"])
    params = SamplingParams(min_tokens=1, stop_token_ids=everything)
    with pytest.raises(OptionError, match="min_tokens bans the stop tokens"):
        llm.generate("ab", params)


def test_beam_search_is_not_offered_to_slide(llm: LLM) -> None:
    with pytest.raises(ContextOverflowError) as caught:
        llm.beam_search("x" * 96, BeamSearchParams())
    assert "slide" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"quantization": "int2"}, OptionError),
        ({"quantization": "int8-g48"}, OptionError),
        ({"quantization": 8}, OptionError),
        ({"quantization": "int8", "device": "torch"}, UnsupportedError),
        ({"quantization": "int8", "dtype": "float32"}, OptionError),
        ({"device": "cuda:99"}, OptionError),
        ({"device": "tpu"}, OptionError),
        ({"device": 0}, OptionError),
        ({"dtype": "float16"}, UnsupportedError),
        ({"dtype": "float8", "device": "torch"}, OptionError),
        ({"kv_cache_dtype": "int4"}, OptionError),
        ({"kv_cache_dtype": "int8", "device": "torch"}, UnsupportedError),
        ({"num_threads": 0}, OptionError),
        ({"num_threads": True}, OptionError),
        ({"max_batch_tokens": 0}, OptionError),
        ({"max_seqs": -1}, OptionError),
        ({"kv_cache_tokens": 0}, OptionError),
        ({"kv_cache_tokens": 2**31 - 1}, OptionError),
        ({"kv_cache_tokens": 10**20}, OptionError),
        ({"max_batch_tokens": 10**7}, OptionError),
        ({"max_seqs": 10**7}, OptionError),
        ({"max_seqs": None}, OptionError),
        ({"num_threads": 1025}, OptionError),
        ({"prefix_caching": 1}, OptionError),
        ({"revision": "main"}, OptionError),
    ],
    ids=str,
)
def test_options_that_cannot_be_honoured(
    checkpoint: tuple[Path, Any], options: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error, match=next(iter(options))):
        LLM(checkpoint[0], **options)


def test_unknown_option_is_refused(checkpoint: tuple[Path, Any]) -> None:
    with pytest.raises(TypeError, match="tensor_parallel_size"):
        LLM(checkpoint[0], tensor_parallel_size=2)  # type: ignore[call-arg]


def test_prefix_caching_can_be_switched_off(checkpoint: tuple[Path, Any]) -> None:
    prompt = "the same long beginning of all prompts"
    results = []
    for prefix_caching in (True, False):
        with LLM(checkpoint[0], prefix_caching=prefix_caching) as llm:
            results.append(texts(llm, [prompt]) + texts(llm, [prompt]))
            assert (llm.stats()["hit_tokens"] > 0) == prefix_caching
    assert results[0] == results[1]


def test_torch_runner_behind_the_same_face(checkpoint: tuple[Path, Any], llm: LLM) -> None:
    pytest.importorskip("torch")
    params = SamplingParams(temperature=0, max_tokens=20)
    with LLM(checkpoint[0], device="torch") as other:
        assert texts(other, PROMPTS, params) == texts(llm, PROMPTS, params)
    with pytest.raises(OptionError, match="num_threads"):
        LLM(checkpoint[0], device="torch:cpu", num_threads=2)


def test_closed(checkpoint: tuple[Path, Any]) -> None:
    llm = LLM(checkpoint[0], num_threads=1)
    stream = llm.stream("abc", PARAMS)
    next(stream)
    llm.close()
    for use in (llm.stats, lambda: llm.generate("x"), lambda: next(stream)):
        with pytest.raises(GPT2FastError, match="closed"):
            use()


def test_without_tokenizer(make_checkpoint: Callable[..., tuple[Path, Any]]) -> None:
    path, _ = make_checkpoint(seed=1, **SIZES)
    with LLM(path, num_threads=1) as llm:
        assert llm.tokenizer is None
        with pytest.raises(RequestError, match="token ids"):
            llm.generate("text")
        output = llm.generate([1, 2], SamplingParams(max_tokens=3, ignore_eos=True))[0].outputs[0]
        assert (output.text, len(output.token_ids)) == ("", 3)


def test_public_names() -> None:
    assert all(getattr(gpt2fast, name) is not None for name in gpt2fast.__all__)
    assert set(gpt2fast.__all__) <= set(dir(gpt2fast))
    with pytest.raises(AttributeError, match="nothing"):
        _ = gpt2fast.nothing


def test_imports_stay_lean(checkpoint: tuple[Path, Any]) -> None:
    program = (
        "import sys, gpt2fast\n"
        "assert 'numpy' not in sys.modules\n"
        f"llm = gpt2fast.LLM({str(checkpoint[0])!r})\n"
        "llm.generate('abc', gpt2fast.SamplingParams(temperature=0, max_tokens=3))\n"
        "heavy = {'torch', 'transformers', 'huggingface_hub', 'numpy.random', 'asyncio'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
