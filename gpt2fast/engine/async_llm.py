"""``AsyncLLM``: the engine for coroutines, a client of the same loop as ``LLM``."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Sequence
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpt2fast.engine.async_queue import AsyncOutputQueue
from gpt2fast.engine.llm import LLM
from gpt2fast.engine.outputs import Delta, RequestOutput
from gpt2fast.engine.prompts import Prompt, Prompts, as_list, as_params
from gpt2fast.engine.sequence import Request
from gpt2fast.sampling_params import BeamSearchParams, SamplingParams


class AsyncLLM:
    """A model that coroutines generate with: their requests share the steps, and come and go.

    Args and errors are those of ``LLM``. A coroutine that is cancelled, or an asynchronous iterator
    that is closed, ends its requests. An asynchronous context manager.
    """

    def __init__(self, model: str | os.PathLike[str], **options: Any) -> None:
        self._llm = LLM(model, **options)
        self.tokenizer, self.config = self._llm.tokenizer, self._llm.config

    async def generate(
        self,
        prompts: Prompts,
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
    ) -> list[RequestOutput]:
        """Complete every prompt, as ``LLM.generate`` does."""
        return await self._run(prompts, sampling_params, SamplingParams)

    async def beam_search(
        self, prompts: Prompts, params: BeamSearchParams | Sequence[BeamSearchParams] | None = None
    ) -> list[RequestOutput]:
        """The best continuations of every prompt, as ``LLM.beam_search`` finds them."""
        return await self._run(prompts, params, BeamSearchParams)

    async def stream(
        self, prompt: Prompt, sampling_params: SamplingParams | None = None
    ) -> AsyncGenerator[Delta, None]:
        """The tokens of all completions of one prompt as they come."""
        (only,) = as_params([prompt], sampling_params, SamplingParams)
        request = self._llm.build_request(prompt, only)
        request.is_streamed = True
        call = self._llm.engine_loop.submit([request], streams=True, queue=AsyncOutputQueue())
        try:
            while True:
                step = await call.get_async()
                for delta in step.deltas:
                    yield delta
                for output in step.finished:
                    if output.error is not None:
                        raise output.error
                    return
        finally:
            call.cancel()

    async def logits(self, token_ids: Sequence[int]) -> NDArray[np.float32]:
        """Teacher-forced logits (T, V) of ``token_ids`` (T,), as ``LLM.logits`` gives them."""
        (output,) = await self._wait([self._llm.build_scoring_request(token_ids)])
        assert output.prompt_logits is not None
        return output.prompt_logits

    def close(self) -> None:
        """Free the model and its cache; requests under way end with an error."""
        self._llm.close()

    async def __aenter__(self) -> AsyncLLM:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    async def _run(self, prompts: Any, params: Any, kind: type) -> list[RequestOutput]:
        listed = as_list(prompts)
        each = as_params(listed, params, kind)
        pairs = zip(listed, each, strict=True)
        return await self._wait([self._llm.build_request(*pair) for pair in pairs])

    async def _wait(self, requests: list[Request]) -> list[RequestOutput]:
        call = self._llm.engine_loop.submit(requests, queue=AsyncOutputQueue())
        try:
            outputs = (await call.get_async()).finished
        finally:
            call.cancel()
        for output in outputs:
            if output.error is not None:
                raise output.error
        return outputs
