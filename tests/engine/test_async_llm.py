"""Coroutines that share an engine get what ``LLM`` gives, and give back what they leave."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpt2fast import LLM, AsyncLLM, BeamSearchParams, SamplingParams
from gpt2fast.errors import GPT2FastError, RequestError
from support.engine.mock_runner import EOS, byte_tokenizer

PARAMS = SamplingParams(max_tokens=12, seed=3, ignore_eos=True)
SIZES = {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 96, "vocab_size": 300}
PROMPTS = ["abc", "the quick", "xyz", "1, 2, 3"]


@pytest.fixture(scope="module")
def path(make_checkpoint: Callable[..., tuple[Path, Any]]) -> Path:
    path, _ = make_checkpoint(std=0.2, eos_token_id=EOS, bos_token_id=EOS, **SIZES)
    byte_tokenizer().save(str(path / "tokenizer.json"))
    return path


@pytest.fixture(scope="module")
def llm(path: Path) -> Iterator[LLM]:
    with LLM(path) as opened:
        yield opened


def tokens(outputs: list[Any]) -> list[list[int]]:
    return [completion.token_ids for output in outputs for completion in output.outputs]


def test_coroutines_share_an_engine(path: Path, llm: LLM) -> None:
    async def main() -> list[list[list[int]]]:
        async with AsyncLLM(path) as model:
            calls = [model.generate(prompt, PARAMS) for prompt in PROMPTS]
            found = [tokens(outputs) for outputs in await asyncio.gather(*calls)]
            found.append(tokens(await model.generate(PROMPTS, PARAMS)))
            found.append(tokens(await model.beam_search("abc", BeamSearchParams(max_tokens=5))))
            return found

    *each, together, beams = asyncio.run(main())
    expected = tokens(llm.generate(PROMPTS, PARAMS))
    assert [one for (one,) in each] == together == expected
    assert beams == tokens(llm.beam_search("abc", BeamSearchParams(max_tokens=5)))


def test_streams_of_several_completions(path: Path, llm: LLM) -> None:
    params = SamplingParams(n=3, max_tokens=8, seed=5, ignore_eos=True, logprobs=2)

    async def main() -> list[Any]:
        async with AsyncLLM(path) as model:
            return [delta async for delta in model.stream("abc", params)]

    deltas = asyncio.run(main())
    (expected,) = llm.generate("abc", params)
    for completion in expected.outputs:
        mine = [delta for delta in deltas if delta.completion == completion.index]
        assert [delta.token_id for delta in mine] == completion.token_ids
        assert "".join(delta.text for delta in mine) == completion.text
        assert [delta.logprobs for delta in mine] == completion.logprobs
        assert [delta.finish_reason for delta in mine] == [None] * 7 + ["length"]
    stream = llm.stream_deltas("abc", params)
    assert list(stream) == [delta._replace(request_id=stream.output.request_id) for delta in deltas]


def test_logits(path: Path, llm: LLM) -> None:
    async def main() -> Any:
        async with AsyncLLM(path) as model:
            return await model.logits([1, 2, 3])

    np.testing.assert_array_equal(asyncio.run(main()), llm.logits([1, 2, 3]))


def test_what_is_left_is_given_back(path: Path) -> None:
    long = SamplingParams(temperature=0, max_tokens=60, ignore_eos=True)

    async def main() -> None:
        async with AsyncLLM(path) as model:
            task = asyncio.create_task(model.generate(PROMPTS, long))
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            stream = model.stream("abc", long)
            await anext(stream)
            await stream.aclose()
            for _ in range(200):
                stats = model._llm.stats()
                if stats["sequences"] == stats["running"] == stats["waiting"] == 0:
                    return
                await asyncio.sleep(0.01)
            raise AssertionError(stats)

    asyncio.run(main())


def test_errors_come_to_the_caller(path: Path) -> None:
    async def main() -> None:
        async with AsyncLLM(path) as model:
            with pytest.raises(RequestError, match="prompts are empty"):
                await model.generate([])
            waiting = asyncio.create_task(model.generate("abc", PARAMS))
            await waiting
        with pytest.raises(GPT2FastError, match="closed"):
            await model.generate("abc", PARAMS)

    asyncio.run(main())
