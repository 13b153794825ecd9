"""Teacher-forced logits of a given text."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from gpt2fast.engine.batch import block_tables
from gpt2fast.engine.block_pool import BlockPool
from gpt2fast.engine.input_processor import check_token_ids
from gpt2fast.engine.scheduler import Scheduler
from gpt2fast.errors import CacheExhaustedError, ContextOverflowError, counted
from gpt2fast.runners.base import Runner, StepBatch


def teacher_forced_logits(
    runner: Runner, pool: BlockPool, scheduler: Scheduler, token_ids: Sequence[int]
) -> NDArray[np.float32]:
    """Logits (T, V) after each of the T ``token_ids``, run in chunks of ``max_batch_tokens``.

    Requests that are under way are preempted if the cache has no room beside them. Raises
    ``RequestError`` for ids outside the vocabulary, ``ContextOverflowError`` for more tokens than
    the context holds, and ``CacheExhaustedError`` for more than the whole cache holds.
    """
    config = runner.config
    tokens = np.array(check_token_ids(token_ids, config.vocab_size), dtype=np.int32)
    if len(tokens) > config.n_positions:
        raise ContextOverflowError(
            f"{len(tokens)} tokens exceed the context of {config.n_positions}; score the text in "
            "windows of at most that many"
        )
    logits = np.empty((len(tokens), config.vocab_size), dtype=np.float32)
    # A reused prefix would not be run and so give no logits: nothing is looked up beyond a block.
    handle, _ = pool.create(tokens[:1])
    try:
        for start in range(0, len(tokens), runner.max_batch_tokens):
            chunk = tokens[start : start + runner.max_batch_tokens]
            end = start + len(chunk)
            _reserve(pool, scheduler, handle, end)
            batch = StepBatch(
                token_ids=chunk,
                query_starts=np.array([0, len(chunk)], dtype=np.int32),
                context_lens=np.array([start], dtype=np.int32),
                block_tables=block_tables([handle], end, pool, runner.block_size),
                logit_rows=np.arange(len(chunk), dtype=np.int32),
            )
            logits[start:end] = runner.step(batch)
            pool.commit(handle, chunk)
    finally:
        pool.free(handle)
    return logits


def _reserve(pool: BlockPool, scheduler: Scheduler, handle: int, length: int) -> None:
    try:
        pool.reserve(handle, length)
    except CacheExhaustedError as error:
        if not scheduler.preempt_newest():
            raise CacheExhaustedError(
                f"{counted(length, 'token')} need more KV cache than there is; raise "
                "kv_cache_tokens"
            ) from error
        _reserve(pool, scheduler, handle, length)
