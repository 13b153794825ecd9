"""A transformers network on the C++ runner: packed weights, a pool of cache blocks, one lock."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from gpt2fast._C import BlockPool
from gpt2fast.checkpoint import Checkpoint
from gpt2fast.config import ModelConfig
from gpt2fast.engine.cache import bytes_per_token
from gpt2fast.errors import CacheExhaustedError
from gpt2fast.hf.backend.fork_safe_lock import Lock
from gpt2fast.hf.backend.last_run import LastRun
from gpt2fast.hf.backend.options import Options, device_of
from gpt2fast.hf.backend.unpad import Plan
from gpt2fast.hf.weights.fingerprint import Stamp
from gpt2fast.hf.weights.module_checkpoint import ModuleSource
from gpt2fast.host import physical_memory
from gpt2fast.runners import BLOCK_SIZE, kv_format
from gpt2fast.runners.base import StepBatch
from gpt2fast.runners.cpu import CpuRunner

if TYPE_CHECKING:
    from gpt2fast.runners.cuda import CudaRunner

_MOST_ROWS = 512  # of one step
# The cache may grow to this share of memory: a CPU takes it as it is used, a GPU at once.
_CPU_SHARE, _GPU_SHARE = 0.5, 0.25
_MOST_CONTEXTS = 1024
_DTYPES = {torch.float16: "float16", torch.bfloat16: "bfloat16"}
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Refusal:
    """Why a network has no runner, as long as its weights do not change."""

    reason: str
    stamp: Stamp


class Native:
    """What stands behind an accelerated network. Callers from several threads take turns.

    Args:
        network: a transformers ``GPT2Model``.
        head: the linear layer of a language model on it, or None.
        options: how it is run.
        releases: lets go of torch's copy of what was packed (``memory``).
        trains: the weights are likely to change without a trace; a sum of all is kept.

    Raises what the runners raise, and ConfigError for a configuration that is not supported.
    """

    def __init__(
        self,
        network: nn.Module,
        head: nn.Module | None,
        options: Options,
        *,
        releases: bool = False,
        trains: bool = False,
    ) -> None:
        before = Stamp(network, head)
        source = ModuleSource(network, head, releases=releases)
        self.config = source.config
        self.run_here = LastRun(device_of(network, options).type)  # of each call that it serves
        make = _cpu_runner if self.run_here.runner == "cpu" else _cuda_runner
        self.runner = make(cast(Checkpoint, source), network, options)
        source.close()
        # What was packed may have moved, and another thread may have written to it meanwhile.
        self.stamp = Stamp(network, head, sums=trains, values=before.values)
        self.pool = BlockPool(self.runner.num_blocks, BLOCK_SIZE, False)
        self.lock = Lock()

    def run(
        self, handles: list[int], ids: NDArray[np.int64], plan: Plan, last: int, *, logits: bool
    ) -> Floats:
        """Run the new tokens of ``ids`` (B, S), append them to the sequences ``handles``, and
        return logits, or hidden states, of the ``last`` columns: (B, last, V or C), zeros for
        padding.

        Raises CacheExhaustedError; the sequences are then as they were.
        """
        width = self.config.vocab_size if logits else self.config.n_embd
        batch, new = ids.shape
        out = np.zeros((batch, last, width), np.float32)
        with self.lock.rlock:
            lengths = [self.pool.length(handle) for handle in handles]
            try:
                for pieces in _steps(plan):
                    self._step(handles, ids, plan, pieces, out, new - last, logits)
            except CacheExhaustedError:
                for handle, length in zip(handles, lengths, strict=True):
                    self.pool.truncate(handle, length)
                raise
        return out

    def decode(
        self, handles: list[int], tokens: NDArray[np.int64], pick: Callable[[Floats], Any]
    ) -> Any:
        """Append one token (B,) to each of ``handles``; returns what ``pick`` makes of the logits
        (B, V), which the next step overwrites.

        Raises CacheExhaustedError; the sequences are then as they were.
        """
        if len(handles) > _MOST_ROWS:
            each_one = Plan(np.zeros(len(handles), np.int64), np.ones(len(handles), np.int64))
            return pick(self.run(handles, tokens[:, None], each_one, 1, logits=True)[:, 0])
        starts, rows = _ranges(len(handles))
        new = tokens.astype(np.int32)
        with self.lock.rlock:
            contexts = [self.pool.length(handle) for handle in handles]
            self._reserve(handles, [context + 1 for context in contexts])
            found = pick(self._run(handles, contexts, new, starts, rows))
            for row, handle in enumerate(handles):
                self.pool.commit(handle, new[row : row + 1])
        return found

    def _step(
        self,
        handles: list[int],
        ids: NDArray[np.int64],
        plan: Plan,
        pieces: list[tuple[int, int, int]],
        out: Floats,
        skipped: int,
        logits: bool,
    ) -> None:
        """One step of ``pieces``: a sequence, and its tokens from one to another."""
        mine = [handles[row] for row, _, _ in pieces]
        contexts = [self.pool.length(handle) for handle in mine]
        lengths = [c + end - begin for c, (_, begin, end) in zip(contexts, pieces, strict=True)]
        self._reserve(mine, lengths)
        tokens, wanted, places = [], [], []
        starts = [0]
        for row, begin, end in pieces:
            columns = np.arange(begin, end) + plan.first[row]
            tokens.append(ids[row, columns].astype(np.int32))
            hits = np.flatnonzero(columns >= skipped)
            wanted.append(starts[-1] + hits)
            places += [(row, column - skipped) for column in columns[hits].tolist()]
            starts.append(starts[-1] + end - begin)
        found = self._run(
            mine, contexts, np.concatenate(tokens), np.array(starts, np.int32),
            np.concatenate(wanted).astype(np.int32), logits=logits,
        )  # fmt: skip
        for handle, piece in zip(mine, tokens, strict=True):
            self.pool.commit(handle, piece)
        if places:
            rows, columns = np.array(places).T
            out[rows, columns] = found

    def _reserve(self, handles: list[int], lengths: list[int]) -> None:
        """Room for texts of ``lengths``. Where it does not do for all, those that have it have the
        blocks that they shared, too."""
        copies: list[tuple[int, int]] = []
        try:
            for handle, length in zip(handles, lengths, strict=True):
                copies += self.pool.reserve(handle, length)
        finally:
            if copies:
                self.runner.copy_blocks(np.array(copies, np.int32))

    def _run(
        self,
        handles: list[int],
        contexts: list[int],
        tokens: NDArray[np.int32],
        starts: NDArray[np.int32],
        wanted: NDArray[np.int32],
        *,
        logits: bool = True,
    ) -> Floats:
        longest = max(contexts) + len(tokens)  # or less
        tables = np.empty((len(handles), -(-longest // BLOCK_SIZE)), np.int32)
        self.pool.fill_block_tables(np.array(handles, np.int64), tables)
        batch = StepBatch(
            token_ids=tokens,
            query_starts=starts,
            context_lens=np.array(contexts, np.int32),
            block_tables=tables,
            logit_rows=wanted,
        )
        return self.runner.step(batch) if logits else self.runner.hidden_states(batch)


@cache
def _ranges(count: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """0 to ``count``, and to one less."""
    return np.arange(count + 1, dtype=np.int32), np.arange(count, dtype=np.int32)


def _cpu_runner(source: Checkpoint, network: nn.Module, options: Options) -> CpuRunner:
    kv_cache_dtype = kv_format("auto", "float32", options.quantization or source.quantization)
    memory = int(physical_memory() * _CPU_SHARE)
    return CpuRunner(
        source,
        quantization=options.quantization,
        kv_cache_dtype=kv_cache_dtype,
        num_threads=options.num_threads,
        num_blocks=_num_blocks(source.config, kv_cache_dtype, memory),
        max_batch_tokens=_MOST_ROWS,
        max_seqs=_MOST_ROWS,
    )


def _cuda_runner(source: Checkpoint, network: nn.Module, options: Options) -> CudaRunner:
    from gpt2fast.runners.cuda import CudaRunner

    dtype = _DTYPES.get(next(network.parameters()).dtype, "float32")
    device, memory = device_of(network, options), 2**28  # that the interpreter takes
    if torch.cuda.is_available():
        memory = int(torch.cuda.mem_get_info(device)[0] * _GPU_SHARE)
    return CudaRunner(
        source,
        device=str(device),
        dtype=dtype,
        quantization=options.quantization,
        num_blocks=_num_blocks(source.config, dtype, memory),
        max_batch_tokens=_MOST_ROWS,
        max_seqs=_MOST_ROWS,
    )


def _num_blocks(config: ModelConfig, dtype: str, memory: int) -> int:
    """Of the contexts whose cache fits into ``memory`` bytes; at least of one."""
    contexts = memory // (config.n_positions * bytes_per_token(config, dtype))
    return min(max(contexts, 1), _MOST_CONTEXTS) * -(-config.n_positions // BLOCK_SIZE)


def _steps(plan: Plan) -> Iterator[list[tuple[int, int, int]]]:
    """Pieces of the sequences, at most as many tokens at once as the runner takes."""
    pieces: list[tuple[int, int, int]] = []
    room = _MOST_ROWS
    for row, count in enumerate(plan.counts.tolist()):
        done = 0
        while done < count:
            size = min(room, count - done)
            pieces.append((row, done, done + size))
            done, room = done + size, room - size
            if room == 0:
                yield pieces
                pieces, room = [], _MOST_ROWS
    if pieces:
        yield pieces
