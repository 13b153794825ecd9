"""llama.cpp through the C interface that llama-cpp-python binds, without its Python classes."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from ctypes import POINTER, c_float, cast
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from gpt2fast.bench.peers.base import (
    Clock,
    Generated,
    cached,
    check_format,
    installed,
    refuse,
    refuse_layers,
)
from gpt2fast.bench.peers.gguf_file import tensor_bytes, write_gguf
from gpt2fast.errors import UnsupportedError

_STORED = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
_QUANTIZED = {"int8": "Q8_0", "int4": "Q4_0"}
_UBATCH = 512
_ERROR_LEVEL = 4


class LlamaCpp:
    """llama_decode over batches of sequences; the next tokens by numpy's argmax.

    int4 is the quantization tool's Q4_0 as it stands: blocks of 32 in 4 bits, the head in Q6_K.
    Each sequence has a KV stream of its own, in float16, the default. Flash attention makes prompts
    faster and decoding slower, a third slower at 900 cached tokens, so it is a variant: "flash".
    """

    FORMATS: ClassVar[tuple[str, ...]] = ("float32", "float16", "bfloat16", "int8", "int4")

    def __init__(self, work: Path, variant: str = "plain") -> None:
        self._work = work
        self._flash = variant == "flash"
        self._api: Any = import_module("llama_cpp")
        self._log = self._api.llama_log_callback(_print_errors)  # C keeps a bare pointer to it
        self._api.llama_log_set(self._log, None)
        self._api.llama_backend_init()
        self._model: Any = None
        self._context: Any = None

    def versions(self) -> dict[str, str]:
        return installed("llama-cpp-python", "gguf")

    def convert(self, checkpoint: Path, fmt: str) -> Path:
        check_format("llama_cpp", fmt, self.FORMATS)
        refuse_layers("llama_cpp", checkpoint)

        def make(path: Path) -> None:
            if fmt in _STORED:
                write_gguf(checkpoint, path, _STORED[fmt])
            else:
                self._quantize(self.convert(checkpoint, "float32"), path, _QUANTIZED[fmt])

        return cached(self._work, checkpoint, f"llama_cpp-{fmt}.gguf", self.versions(), make)

    def _quantize(self, source: Path, path: Path, kind: str) -> None:
        api = self._api
        options = api.llama_model_quantize_default_params()
        options.ftype = getattr(api, f"LLAMA_FTYPE_MOSTLY_{kind}")
        code = api.llama_model_quantize(str(source).encode(), str(path).encode(), options)
        if code:
            raise UnsupportedError(f"llama.cpp could not quantize {source} to {kind} (code {code})")

    def load(
        self, artifact: Path, fmt: str, threads: int, context: int, batch: int, **options: str
    ) -> None:
        refuse("llama_cpp", options)
        api = self._api
        self._artifact = artifact
        self._model = api.llama_model_load_from_file(
            str(artifact).encode(), api.llama_model_default_params()
        )
        if not self._model:
            raise UnsupportedError(f"llama.cpp could not load {artifact}; delete it and try again")
        params = api.llama_context_default_params()
        params.n_ctx = context * batch
        params.n_batch = max(_UBATCH, context * batch)
        params.n_ubatch = _UBATCH
        params.n_seq_max = batch
        params.n_threads = params.n_threads_batch = threads
        kind = "ENABLED" if self._flash else "DISABLED"
        params.flash_attn_type = getattr(api, f"LLAMA_FLASH_ATTN_TYPE_{kind}")
        params.kv_unified = batch == 1
        params.no_perf = True
        self._context = api.llama_init_from_model(self._model, params)
        if not self._context:
            raise UnsupportedError(f"llama.cpp could not make a context for {artifact}")
        self._vocab = api.llama_vocab_n_tokens(api.llama_model_get_vocab(self._model))
        self._batch = api.llama_batch_init(params.n_batch, 0, 1)

    def generate(
        self, prompts: Sequence[Sequence[int]], new_tokens: int, clock: Clock
    ) -> Generated:
        self._forget()
        size, length = len(prompts), len(prompts[0])
        wanted = range(length - 1, size * length, length)  # the last row of each prompt
        self._prefill(prompts, set(wanted))
        last: list[int] = []
        tokens: list[list[int]] = [[] for _ in prompts]
        times: list[float] = []
        for step in range(new_tokens):
            if step:
                self._decode(last, length + step - 1)
                wanted = range(size)
            last = [int(self._row(i).argmax()) for i in wanted]
            times.append(clock())
            for sequence, token in zip(tokens, last, strict=True):
                sequence.append(token)
        return tokens, times

    def logits(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        self._forget()
        self._prefill([tokens], set(range(len(tokens))))
        return np.stack([self._row(i) for i in range(len(tokens))])

    def _forget(self) -> None:
        self._api.llama_memory_clear(self._api.llama_get_memory(self._context), False)

    def _prefill(self, prompts: Sequence[Sequence[int]], wanted: set[int]) -> None:
        row = 0
        for sequence, prompt in enumerate(prompts):
            for position, token in enumerate(prompt):
                self._put(row, token, position, sequence, row in wanted)
                row += 1
        self._run(row)

    def _decode(self, last: list[int], position: int) -> None:
        for sequence, token in enumerate(last):
            self._put(sequence, token, position, sequence, True)
        self._run(len(last))

    def _put(self, row: int, token: int, position: int, sequence: int, wanted: bool) -> None:
        batch = self._batch
        batch.token[row] = token
        batch.pos[row] = position
        batch.n_seq_id[row] = 1
        batch.seq_id[row][0] = sequence
        batch.logits[row] = wanted

    def _run(self, rows: int) -> None:
        self._batch.n_tokens = rows
        code = self._api.llama_decode(self._context, self._batch)
        if code:
            raise RuntimeError(f"llama_decode of {rows} tokens failed with code {code}")

    def _row(self, row: int) -> NDArray[np.float32]:
        """A copy-free view of the logits (V,) of one row of the last batch."""
        pointer = self._api.llama_get_logits_ith(self._context, row)
        values: NDArray[np.float32] = np.ctypeslib.as_array(
            cast(pointer, POINTER(c_float)), (self._vocab,)
        )
        return values

    def weight_bytes(self) -> int | None:
        return tensor_bytes(self._artifact)

    def kv_bytes_per_token(self) -> int | None:
        api = self._api
        values = api.llama_model_n_layer(self._model) * api.llama_model_n_embd(self._model)
        return 2 * 2 * int(values)  # keys and values in float16

    def close(self) -> None:
        if self._context:
            self._api.llama_batch_free(self._batch)
            self._api.llama_free(self._context)
        if self._model:
            self._api.llama_model_free(self._model)
        self._context = self._model = None


def _print_errors(level: int, text: bytes, _: Any) -> None:
    if level == _ERROR_LEVEL:
        sys.stderr.write(text.decode(errors="replace"))
