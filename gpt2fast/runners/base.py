"""The one interface between the engine, which knows no device, and what runs a forward step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from gpt2fast.config import ModelConfig


@dataclass(frozen=True)
class StepBatch:
    """One forward step over S sequences: any mix of prefill chunks and single decode tokens.

    The new tokens of all sequences are concatenated to T rows. Row ``i`` of sequence ``s`` has the
    position ``context_lens[s] + i - query_starts[s]``; its keys and values are stored in the block
    ``block_tables[s, position // block_size]`` at slot ``position % block_size``.
    """

    token_ids: NDArray[np.int32]  # (T,)
    query_starts: NDArray[np.int32]  # (S + 1,): rows of sequence s are [starts[s], starts[s + 1])
    context_lens: NDArray[np.int32]  # (S,): tokens already in the cache before this step
    block_tables: NDArray[np.int32]  # (S, M): unused entries are -1
    logit_rows: NDArray[np.int32]  # (R,): the rows of T whose logits are wanted


class Runner(Protocol):
    """A model with its KV cache storage on one device. The books of the cache are kept outside."""

    config: ModelConfig
    block_size: int  # tokens in a cache block
    num_blocks: int  # blocks in the cache storage
    max_batch_tokens: int  # the largest T of a step
    max_seqs: int  # the largest S of a step

    def step(self, batch: StepBatch) -> NDArray[np.float32]:
        """Run one step, write keys and values to the cache, and return logits (R, V).

        The array may be a buffer of the runner's that the next step overwrites.
        """
        ...

    def copy_blocks(self, pairs: NDArray[np.int32]) -> None:
        """Copy cache blocks, all layers: ``pairs`` (N, 2) holds (source, destination)."""
        ...
