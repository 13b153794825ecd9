"""Laying out the scheduled chunks of many sequences as one ``StepBatch``."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gpt2fast.engine.block_pool import BlockPool
from gpt2fast.engine.sequence import Sequence
from gpt2fast.runners.base import StepBatch

Integers = list[int] | NDArray[np.int32]


@dataclass(slots=True)
class Chunk:
    """The next tokens of one sequence to run in this step."""

    sequence: Sequence
    handle: int  # of the sequence in the block pool
    num_tokens: int
    copies: list[tuple[int, int]]  # blocks (source, destination) to copy before the step
    num_logits: int  # of its last tokens, logits are wanted: 1 where the next one is chosen


def assemble(chunks: list[Chunk], pool: BlockPool, block_size: int, steps: int = 1) -> StepBatch:
    """The batch of ``chunks``, in their order. All of them have room reserved in ``pool``, and for
    ``steps - 1`` tokens more."""
    token_ids: list[int] = []
    starts = [0]
    contexts: list[int] = []
    rows: list[int] = []
    longest = 0
    for chunk in chunks:
        sequence, count = chunk.sequence, chunk.num_tokens
        context = sequence.num_computed
        first = sequence.window_start + context
        token_ids += sequence.token_ids[first : first + count]
        starts.append(len(token_ids))
        contexts.append(context)
        longest = max(longest, context + count)
        rows += range(len(token_ids) - chunk.num_logits, len(token_ids))
    handles = [chunk.handle for chunk in chunks]
    tables = block_tables(handles, longest + steps - 1, pool, block_size)
    return step_batch(token_ids, starts, contexts, rows, tables)


def step_batch(
    token_ids: Integers,
    query_starts: Integers,
    context_lens: Integers,
    logit_rows: Integers,
    tables: NDArray[np.int32],
) -> StepBatch:
    """A ``StepBatch`` of lists or arrays; those that are arrays of int32 are not copied."""
    return StepBatch(
        token_ids=np.asarray(token_ids, np.int32),
        query_starts=np.asarray(query_starts, np.int32),
        context_lens=np.asarray(context_lens, np.int32),
        block_tables=tables,
        logit_rows=np.asarray(logit_rows, np.int32),
    )


def block_tables(
    handles: list[int], length: int, pool: BlockPool, block_size: int
) -> NDArray[np.int32]:
    """(S, M) of sequences of at most ``length`` tokens."""
    tables = np.empty((len(handles), -(-length // block_size)), dtype=np.int32)
    pool.fill_block_tables(np.array(handles, dtype=np.int64), tables)
    return tables
