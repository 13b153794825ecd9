"""``LLM``: a checkpoint, a runner and an engine behind a few methods."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gpt2fast.config import ModelConfig
from gpt2fast.engine.engine import Engine
from gpt2fast.engine.input_processor import build_request, check_cache
from gpt2fast.engine.loop import Call, EngineLoop
from gpt2fast.engine.output_stream import DeltaStream, TextStream
from gpt2fast.engine.outputs import RequestOutput, StepOutput
from gpt2fast.engine.prompts import Prompt, Prompts, as_list, as_params, read_prompt
from gpt2fast.engine.scoring import build_scoring_request
from gpt2fast.engine.sequence import Request
from gpt2fast.errors import GPT2FastError, OptionError
from gpt2fast.runners.kv_memory import estimate_memory, num_blocks
from gpt2fast.runners.options import EngineOptions
from gpt2fast.sampling_params import BeamSearchParams, SamplingParams

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from gpt2fast.runners.base import Runner


class LLM:
    """A model ready to generate.

    Args:
        model: ``"demo"``, a directory in Hugging Face format, a hub id such as ``"gpt2"``, or a
            directory that ``gpt2fast export`` wrote, which runs in onnxruntime.
        device: "auto" and "cpu": the C++ runner; "cuda" or ``"cuda:<index>"``: Triton kernels on an
            NVIDIA GPU; "torch" or ``"torch:<device>"``: PyTorch.
        dtype: of the weights: "auto", "float32" or "bfloat16" ("float16" with cuda, where it is
            what "auto" means, and with torch).
        quantization: None, or the integers that the weights are rounded to as they are loaded:
            "int8", "int4", "int3", "fp8" (with cuda alone), or with a group size of 32, 64 or 128,
            such as "int4-g32". A checkpoint that ``save_quantized`` wrote needs no word of it.
        kv_cache_dtype: "float32", "bfloat16" or "int8"; "auto" is float32 for float32 weights and
            bfloat16 for smaller ones. Other runners than the C++ one keep it in ``dtype``.
        num_threads: of the C++ runner; by default one for each physical core.
        revision: branch, tag or commit of a hub id.
        max_batch_tokens: tokens in one forward step; longer prompts are run in chunks.
        max_seqs: sequences that run at the same time; others wait.
        kv_cache_tokens: tokens that the KV cache holds over all sequences. By default room for two
            full contexts and at least 8,192 tokens, but for no more than a quarter of the memory of
            the machine, and never for less than one context. Memory is touched as it is needed.
        prefix_caching: keep what finished prompts left in the cache for prompts that begin alike;
            in onnxruntime nothing is kept.

    Raises ``OptionError`` or ``UnsupportedError`` naming an option that cannot be honoured, and
    ``CheckpointError`` naming the file for a damaged checkpoint. Safe to use from several threads,
    whose requests share the steps, after Ctrl-C at any moment, and on the C++ runner in a child
    forked at any moment. A context manager.
    """

    def __init__(
        self,
        model: str | os.PathLike[str],
        *,
        device: str = "auto",
        dtype: str = "auto",
        quantization: str | None = None,
        kv_cache_dtype: str = "auto",
        num_threads: int | None = None,
        revision: str | None = None,
        max_batch_tokens: int = 512,
        max_seqs: int = 64,
        kv_cache_tokens: int | None = None,
        prefix_caching: bool = True,
    ) -> None:
        options = EngineOptions(
            device=device,
            dtype=dtype,
            quantization=quantization,
            kv_cache_dtype=kv_cache_dtype,
            num_threads=num_threads,
            max_batch_tokens=max_batch_tokens,
            max_seqs=max_seqs,
            kv_cache_tokens=kv_cache_tokens,
            prefix_caching=prefix_caching,
        )
        from gpt2fast.checkpoint import Export, open_model
        from gpt2fast.runners import make_runner, resolve_format, tokens_in_a_block

        with open_model(model, revision=revision) as opened:
            self.tokenizer: Tokenizer | None = opened.load_tokenizer()
            self.config: ModelConfig = opened.config
            model_format = resolve_format(opened, options.formats, options.device)
            size = tokens_in_a_block(opened)
            blocks = num_blocks(
                self.config,
                size,
                options.kv_cache_tokens,
                estimate_memory(opened, model_format),
                model_format.kv_cache_dtype,
                is_export=isinstance(opened, Export),
            )
            runner = make_runner(
                opened,
                model_format,
                num_threads=options.num_threads,
                num_blocks=blocks,
                block_size=size,
                max_batch_tokens=options.max_batch_tokens,
                max_seqs=options.max_seqs,
            )
        self._runner: Runner | None = runner
        self._path = opened.path
        self.engine_loop = EngineLoop(partial(_make_engine, runner, self.tokenizer, prefix_caching))

    def generate(
        self,
        prompts: Prompts,
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        use_tqdm: bool = False,
    ) -> list[RequestOutput]:
        """Complete every prompt; outputs in the order of the prompts.

        A prompt is a string, token ids (a list, or an integer array or tensor (T,)), or a
        dictionary with "prompt" or "prompt_token_ids"; ``prompts`` is one, a list of them, or an
        array (B, T). An empty string begins with the model's begin or end of text.
        ``sampling_params`` is one for all or one for each. There is no progress bar: ``use_tqdm``
        is for vLLM's users, who switch theirs off with it. Raises before anything is run:
        ``RequestError``, ``OptionError``, ``ContextOverflowError``, and ``CacheExhaustedError``
        where one prompt with its ``max_tokens`` exceeds the whole cache.
        """
        if use_tqdm:
            raise OptionError("use_tqdm = True: there is no progress bar; leave it out")
        listed = as_list(prompts)
        each = as_params(listed, sampling_params, SamplingParams)
        return self._run([self.build_request(*pair) for pair in zip(listed, each, strict=True)])

    def beam_search(
        self, prompts: Prompts, params: BeamSearchParams | Sequence[BeamSearchParams] | None = None
    ) -> list[RequestOutput]:
        """The best continuations of every prompt by beam search. Raises what ``generate`` does."""
        listed = as_list(prompts)
        each = as_params(listed, params, BeamSearchParams)
        return self._run([self.build_request(*pair) for pair in zip(listed, each, strict=True)])

    def stream(self, prompt: Prompt, sampling_params: SamplingParams | None = None) -> TextStream:
        """The text of one completion, piece by piece. Raises what ``generate`` does.

        The prompt and its options are checked at once; running starts with the first piece asked
        for.
        """
        (only,) = as_params([prompt], sampling_params, SamplingParams)
        if only.n != 1:
            raise OptionError(
                f"n = {only.n} completions are not one text; use n = 1, or stream_deltas()"
            )
        return TextStream(self._streamed(prompt, only))

    def stream_deltas(
        self, prompt: Prompt, sampling_params: SamplingParams | None = None
    ) -> DeltaStream:
        """The tokens of all ``n`` completions as they come, with text and, if asked for, logprobs.
        Otherwise as ``stream``."""
        (only,) = as_params([prompt], sampling_params, SamplingParams)
        return DeltaStream(self._streamed(prompt, only))

    def logits(self, token_ids: Sequence[int]) -> NDArray[np.float32]:
        """Teacher-forced logits (T, V), float32, of ``token_ids`` (T,): row t predicts token t + 1.

        Raises ``RequestError`` for ids outside the vocabulary, ``ContextOverflowError`` if T
        exceeds the context.
        """
        (output,) = self._run([self.build_scoring_request(token_ids)])
        assert output.prompt_logits is not None
        return output.prompt_logits

    def save_quantized(self, out: str | os.PathLike[str]) -> None:
        """Write the quantized model as a new directory in Hugging Face format.

        ``LLM(out)`` loads it without rounding again, with the same bits. ``out`` must not exist, or
        be empty; it appears whole or not at all. Raises ``OptionError`` where the model is not
        quantized, or ``out`` cannot be written.
        """
        from gpt2fast.checkpoint.save import save_quantized
        from gpt2fast.runners.cpu import CpuRunner

        runner = self._open_runner()
        if not isinstance(runner, CpuRunner) or runner.quantization is None:
            raise OptionError(
                "this model is not quantized; make it with quantization='int8' or 'int4' on "
                "the cpu runner"
            )
        tensors = runner.packed_tensors()
        save_quantized(Path(out), self._path, self.config, runner.quantization, tensors)

    def stats(self) -> dict[str, int]:
        """Counters of the KV cache (blocks, hits, evictions) and of the scheduler."""
        return self.engine_loop.run(Engine.stats)

    def close(self) -> None:
        """Free the model and its cache. Requests under way in other threads end with an error."""
        self._runner = None
        self.engine_loop.close()

    def __enter__(self) -> LLM:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _open_runner(self) -> Runner:
        if self._runner is None:
            raise GPT2FastError("this LLM is closed; make a new one")
        return self._runner

    def _streamed(self, prompt: Prompt, params: SamplingParams) -> Callable[[], Call[StepOutput]]:
        request = self.build_request(prompt, params)
        request.is_streamed = True
        return partial(self.engine_loop.submit, [request], streams=True)

    def build_request(self, prompt: Prompt, params: SamplingParams | BeamSearchParams) -> Request:
        """A checked request for ``engine_loop``. Raises what ``generate`` does."""
        runner = self._open_runner()
        text, ids = read_prompt(prompt, self.tokenizer, self.config)
        request = build_request(
            runner.config, ids, params, prompt=text, has_tokenizer=self.tokenizer is not None
        )
        check_cache(request, self.config.n_positions, runner.num_blocks * runner.block_size)
        return request

    def build_scoring_request(self, token_ids: Sequence[int]) -> Request:
        """The same for ``logits``."""
        runner = self._open_runner()
        return build_scoring_request(
            runner.config, token_ids, runner.num_blocks * runner.block_size
        )

    def _run(self, requests: list[Request]) -> list[RequestOutput]:
        if not requests:
            return []
        call = self.engine_loop.submit(requests)
        try:
            outputs = call.get().finished
        except BaseException:
            call.cancel()
            raise
        for output in outputs:
            if output.error is not None:
                raise output.error
        return outputs


def _make_engine(runner: Runner, tokenizer: Tokenizer | None, prefix_caching: bool) -> Engine:
    from gpt2fast._C import BlockPool

    pool = BlockPool(runner.num_blocks, runner.block_size, prefix_caching)
    return Engine(runner, pool, tokenizer)
