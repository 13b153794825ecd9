"""``LLM``: a checkpoint, a runner and an engine behind five methods."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gpt2fast.config import ModelConfig
from gpt2fast.engine.cache import held_on_cpu, num_blocks
from gpt2fast.engine.engine import Engine
from gpt2fast.engine.intake import check_cache
from gpt2fast.engine.options import EngineOptions
from gpt2fast.engine.outputs import RequestOutput
from gpt2fast.engine.prompts import Prompt, Prompts, as_list, as_params, read_prompt
from gpt2fast.engine.sequence import Request
from gpt2fast.engine.text_stream import Mailbox, TextStream
from gpt2fast.errors import GPT2FastError, OptionError
from gpt2fast.quantization import agree
from gpt2fast.sampling_params import BeamSearchParams, SamplingParams

if TYPE_CHECKING:
    from tokenizers import Tokenizer


class LLM:
    """A model ready to generate.

    Args:
        model: ``"demo"``, a directory in Hugging Face format, a hub id such as ``"gpt2"``, or a
            directory that ``gpt2fast export`` wrote, which runs in onnxruntime.
        device: "auto" and "cpu": the C++ runner; "cuda" or "cuda:<index>": Triton kernels on an
            NVIDIA GPU; "torch" or "torch:<device>": PyTorch.
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
    ``CheckpointError`` naming the file for a damaged checkpoint. Safe to use from several threads:
    their requests share the steps. A context manager.
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
        from gpt2fast._C import BlockPool
        from gpt2fast.checkpoint import Export, open_model
        from gpt2fast.runners import make_runner, tokens_in_a_block

        with open_model(model, revision=revision) as opened:
            self.tokenizer: Tokenizer | None = opened.load_tokenizer()
            self.config: ModelConfig = opened.config
            scheme = agree(quantization, opened.quantization, opened.path)
            weights, kv_format = held_on_cpu(opened, options, scheme)
            size = tokens_in_a_block(opened)
            is_export = isinstance(opened, Export)
            blocks = num_blocks(
                self.config, size, kv_cache_tokens, weights, kv_format, is_export=is_export
            )
            runner = make_runner(
                opened,
                device=device,
                dtype=dtype,
                quantization=scheme,
                kv_cache_dtype=kv_cache_dtype,
                num_threads=num_threads,
                num_blocks=blocks,
                block_size=size,
                max_batch_tokens=options.max_batch_tokens,
                max_seqs=options.max_seqs,
            )
        pool = BlockPool(runner.num_blocks, runner.block_size, prefix_caching)
        self._engine: Engine | None = Engine(runner, pool, self.tokenizer)
        self._path = opened.path
        self._lock = threading.Lock()
        self._mail: dict[str, Mailbox] = {}
        self._abandoned: deque[str] = deque()  # requests to be aborted by whoever has the lock

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
        return self._run([self._build(*pair) for pair in zip(listed, each, strict=True)])

    def beam_search(
        self, prompts: Prompts, params: BeamSearchParams | Sequence[BeamSearchParams] | None = None
    ) -> list[RequestOutput]:
        """The best continuations of every prompt by beam search. Raises what ``generate`` does."""
        listed = as_list(prompts)
        each = as_params(listed, params, BeamSearchParams)
        return self._run([self._build(*pair) for pair in zip(listed, each, strict=True)])

    def stream(self, prompt: Prompt, sampling_params: SamplingParams | None = None) -> TextStream:
        """The text of one completion, piece by piece. Raises what ``generate`` does.

        The prompt and its options are checked at once; running starts with the first piece asked
        for.
        """
        (only,) = as_params([prompt], sampling_params, SamplingParams)
        if only.n != 1:
            raise OptionError(f"n = {only.n} cannot be streamed; use n = 1, or generate()")
        request = self._build(prompt, only)
        mail = Mailbox(request.request_id, keep_pieces=True)
        return TextStream(self._pieces(request, mail), mail)

    def logits(self, token_ids: Sequence[int]) -> NDArray[np.float32]:
        """Teacher-forced logits (T, V), float32, of ``token_ids`` (T,): row t predicts token t + 1.

        Raises ``RequestError`` for ids outside the vocabulary, ``ContextOverflowError`` if T
        exceeds the context.
        """
        with self._locked() as engine:
            return engine.logits(token_ids)

    def save_quantized(self, out: str | os.PathLike[str]) -> None:
        """Write the quantized model as a new directory in Hugging Face format.

        ``LLM(out)`` loads it without rounding again, with the same bits. ``out`` must not exist, or
        be empty; it appears whole or not at all. Raises ``OptionError`` where the model is not
        quantized, or ``out`` cannot be written.
        """
        from gpt2fast.checkpoint.save import save_quantized
        from gpt2fast.runners.cpu import CpuRunner

        with self._locked() as engine:
            runner = engine.runner
            if not isinstance(runner, CpuRunner) or runner.quantization is None:
                raise OptionError(
                    "this model is not quantized; make it with quantization='int8' or 'int4' on "
                    "the cpu runner"
                )
            tensors = runner.packed_tensors()
            save_quantized(Path(out), self._path, self.config, runner.quantization, tensors)

    def stats(self) -> dict[str, int]:
        """Counters of the KV cache (blocks, hits, evictions) and of the scheduler."""
        with self._locked() as engine:
            return engine.stats()

    def close(self) -> None:
        """Free the model and its cache. Requests under way in other threads end with an error."""
        with self._lock:
            self._engine = None

    def __enter__(self) -> LLM:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _open_engine(self) -> Engine:
        if self._engine is None:
            raise GPT2FastError("this LLM is closed; make a new one")
        return self._engine

    def _build(self, prompt: Prompt, params: SamplingParams | BeamSearchParams) -> Request:
        engine = self._open_engine()
        text, ids = read_prompt(prompt, self.tokenizer, self.config)
        request = engine.build_request(ids, params, prompt=text)
        runner = engine.runner
        check_cache(request, self.config.n_positions, runner.num_blocks * runner.block_size)
        return request

    def _run(self, requests: list[Request]) -> list[RequestOutput]:
        mail = [Mailbox(request.request_id, keep_pieces=False) for request in requests]
        try:
            for request, box in zip(requests, mail, strict=True):
                self._enqueue(request, box)
            outputs = [self._wait(box) for box in mail]
        finally:
            self._abandon(mail)
        for output in outputs:
            if output.error is not None:
                raise output.error
        return outputs

    def _pieces(self, request: Request, mail: Mailbox) -> Generator[str, None, None]:
        try:
            self._enqueue(request, mail)
            while mail.output is None or mail.pieces:
                while mail.pieces:
                    yield mail.pieces.popleft()
                self._step_for(mail)
            if mail.output.error is not None:
                raise mail.output.error
        finally:
            self._abandon([mail])

    def _enqueue(self, request: Request, mail: Mailbox) -> None:
        with self._locked() as engine:
            engine.enqueue(request)
            self._mail[request.request_id] = mail

    def _wait(self, mail: Mailbox) -> RequestOutput:
        while mail.output is None:
            self._step_for(mail)
        return mail.output

    def _step_for(self, mail: Mailbox) -> None:
        """Run one step, whoever's requests it serves, unless ``mail`` has come meanwhile."""
        with self._locked() as engine:
            if mail.has_news:
                return
            if not engine.knows(mail.request_id):
                raise GPT2FastError("the request was interrupted in another thread; repeat it")
            result = engine.step()
            for delta in result.deltas:
                self._mail[delta.request_id].put(delta)
            for output in result.finished:
                self._mail[output.request_id].output = output

    @contextmanager
    def _locked(self) -> Iterator[Engine]:
        with self._lock:
            self._abort_abandoned()
            yield self._open_engine()
        self._abandon([])

    def _abandon(self, mail: list[Mailbox]) -> None:
        # A stream can be collected as garbage in any thread at any moment, even inside a step of
        # its own thread: waiting for the lock could then last for ever.
        self._abandoned.extend(box.request_id for box in mail)
        while self._abandoned and self._lock.acquire(blocking=False):
            try:
                self._abort_abandoned()
            finally:
                self._lock.release()

    def _abort_abandoned(self) -> None:
        while self._abandoned:
            request_id = self._abandoned.popleft()
            self._mail.pop(request_id, None)
            if self._engine is not None:
                self._engine.abort(request_id)
