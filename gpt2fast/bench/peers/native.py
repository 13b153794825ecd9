"""gpt2fast itself, through ``LLM`` and the steps of its engine."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from gpt2fast.bench.peers.base import Clock, Generated, check_format, installed, refuse
from gpt2fast.quantization import INTEGER_FORMATS

if TYPE_CHECKING:
    from gpt2fast.engine.engine import Engine

STORED = "stored"  # the format of a model that is stored in integers, or is an export
_BITS = {"float32": 32, "bfloat16": 16, "float16": 16, "int8": 8}
# A step can hold the prompts of a whole batch up to this, so that all sequences decode in step and
# no token of one counts as prefill of another.
_MOST_BATCH_TOKENS = 4096


class Native:
    """float32 and bfloat16 are ``dtype``; int8, int4 and int3 are ``quantization``, made at load;
    "stored" leaves both to the model.

    The one option is ``kv_cache_dtype``. Reuse of prefixes is off: every prompt is computed.
    """

    FORMATS: ClassVar[tuple[str, ...]] = ("float32", "bfloat16", *INTEGER_FORMATS, STORED)

    def __init__(self, work: Path) -> None:
        self._llm: Any = None
        self._work = work

    def versions(self) -> dict[str, str]:
        from gpt2fast import _C

        return {**installed("gpt2fast"), "instruction set": _C.isa()}

    def convert(self, checkpoint: Path, fmt: str) -> Path:
        return checkpoint

    def load(
        self, artifact: Path, fmt: str, threads: int, context: int, batch: int, **options: str
    ) -> None:
        from gpt2fast import LLM
        from gpt2fast.checkpoint import open_model
        from gpt2fast.runners import tokens_in_a_block

        kv_cache_dtype = options.pop("kv_cache_dtype", "auto")
        refuse("gpt2fast", options)
        check_format("gpt2fast", fmt, Native.FORMATS)
        with open_model(artifact) as model:
            size = tokens_in_a_block(model)
        blocks = -(-context // size) + 1  # a copy on write may need one more
        self._llm = LLM(
            artifact,
            device="cpu",
            dtype=fmt if fmt in ("float32", "bfloat16") else "auto",
            quantization=fmt if fmt in INTEGER_FORMATS else None,
            kv_cache_dtype=kv_cache_dtype,
            num_threads=threads,
            max_batch_tokens=min(max(512, batch * context), _MOST_BATCH_TOKENS),
            max_seqs=batch,
            kv_cache_tokens=size * blocks * batch,
            prefix_caching=False,
        )

    def generate(
        self, prompts: Sequence[Sequence[int]], new_tokens: int, clock: Clock
    ) -> Generated:
        found: Generated = self._llm.engine_loop.run(partial(_generate, prompts, new_tokens, clock))
        return found

    def logits(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        values: NDArray[np.float32] = self._llm.logits(tokens)
        return values

    def weight_bytes(self) -> int | None:
        return int(self._llm._open_runner().bytes_per_step)

    def kv_bytes_per_token(self) -> int | None:
        config, runner = self._llm.config, self._llm._open_runner()
        bits = _BITS[runner.kv_cache_dtype]
        heads = sum(layer.n_head for layer in config.layer_shapes)
        return int(2 * heads * (config.head_size * bits // 8 + (4 if bits == 8 else 0)))

    def close(self) -> None:
        if self._llm is not None:
            self._llm.close()
        self._llm = None


def _generate(
    prompts: Sequence[Sequence[int]], new_tokens: int, clock: Clock, engine: Engine
) -> Generated:
    """In the engine's own thread, so that each step is timed and no hand-over."""
    from gpt2fast import SamplingParams

    params = SamplingParams(temperature=0.0, max_tokens=new_tokens, ignore_eos=True)
    rows = {engine.add_request(list(p), params): i for i, p in enumerate(prompts)}
    tokens: list[list[int]] = [[] for _ in prompts]
    times = [0.0] * new_tokens
    while engine.has_unfinished():
        result = engine.step()
        # Several steps a call: the runner says when each of them ended.
        now = clock()
        ended = [now - perf_counter() + each for each in result.times] or [now]
        before = [len(row) for row in tokens]
        for request in result.finished:
            if request.error is not None:
                raise request.error
        for delta in result.deltas:
            number = rows[delta.request_id]
            row = tokens[number]
            at = min(len(row) - before[number], len(ended) - 1)
            times[len(row)] = ended[at]  # the last sequence to get there decides
            row.append(delta.token_id)
    return tokens, times
