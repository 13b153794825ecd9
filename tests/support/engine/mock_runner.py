"""A deterministic stand-in for a model, and a byte-level tokenizer: no weights, no network.

The logits of a row are a function of the whole token history, which is read back through the block
tables from cache slots that hold token ids. A wrong table, a missed block copy, a stale slot or two
sequences that share one by mistake all change the output, or raise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from gpt2fast import _C
from gpt2fast.config import ModelConfig
from gpt2fast.runners.base import NO_TOKENS, RowSampling, StepBatch
from gpt2fast.sampling_params import SamplingParams
from support.gumbel_reference import choose

EOS = 256
VOCAB_SIZE = 300  # bytes, EOS, and ids that the tokenizer does not know
EMPTY = -1


def mock_config(n_positions: int = 128, vocab_size: int = VOCAB_SIZE) -> ModelConfig:
    return ModelConfig(
        vocab_size=vocab_size,
        n_positions=n_positions,
        n_embd=8,
        n_layer=1,
        n_head=1,
        n_inner=32,
        eos_token_ids=(EOS,),
    )


class MockModel:
    """Logits (V,) from a list of tokens, without any cache."""

    def __init__(self, vocab_size: int = VOCAB_SIZE, scale: float = 2.0) -> None:
        rng = np.random.default_rng(7)
        self._table = rng.normal(size=(1021, vocab_size)).astype(np.float32) * np.float32(scale)
        self._weights = rng.integers(1, 2**63, size=4096, dtype=np.uint64)

    def rows(self, tokens: NDArray[np.int64], count: int) -> NDArray[np.float32]:
        """Logits (count, V) of the last ``count`` of ``tokens``; positions begin at 0."""
        terms = (tokens + 1).astype(np.uint64) * self._weights[: len(tokens)]
        hashes = np.cumsum(terms, dtype=np.uint64) >> np.uint64(17)
        return self._table[(hashes % np.uint64(len(self._table)))[len(tokens) - count :]]

    def logits(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        return self.rows(np.array(tokens, dtype=np.int64), 1)[0]


@dataclass
class MockRunner:
    config: ModelConfig = field(default_factory=mock_config)
    block_size: int = 4
    num_blocks: int = 64
    max_batch_tokens: int = 16
    max_seqs: int = 8
    fail_on_token: int | None = None  # a step that contains it raises
    model: MockModel = field(default_factory=MockModel)
    batches: list[StepBatch] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.slots = np.full((self.num_blocks, self.block_size), EMPTY, dtype=np.int64)

    def step(self, batch: StepBatch) -> NDArray[np.float32]:
        self._check(batch)
        self.batches.append(batch)
        if self.fail_on_token is not None and self.fail_on_token in batch.token_ids:
            raise RuntimeError("the device is on fire")
        written: set[tuple[int, int]] = set()
        rows = np.empty((len(batch.token_ids), self.config.vocab_size), dtype=np.float32)
        for s, context in enumerate(batch.context_lens.tolist()):
            start, end = batch.query_starts[s : s + 2].tolist()
            for row in range(start, end):
                position = context + row - start
                block = int(batch.block_tables[s, position // self.block_size])
                slot = (block, position % self.block_size)
                assert block >= 0
                assert slot not in written
                written.add(slot)
                self.slots[slot] = batch.token_ids[row]
        for s, context in enumerate(batch.context_lens.tolist()):
            start, end = batch.query_starts[s : s + 2].tolist()
            length = context + end - start
            blocks = batch.block_tables[s, : -(-length // self.block_size)]
            history = self.slots[blocks].reshape(-1)[:length]
            assert EMPTY not in history
            rows[start:end] = self.model.rows(history, end - start)
        return rows[batch.logit_rows]

    def copy_blocks(self, pairs: NDArray[np.int32]) -> None:
        for source, destination in pairs.tolist():
            self.slots[destination] = self.slots[source]

    def _check(self, batch: StepBatch) -> None:
        num_seqs = len(batch.context_lens)
        assert 1 <= num_seqs <= self.max_seqs
        assert 1 <= len(batch.token_ids) <= self.max_batch_tokens
        assert batch.block_tables.shape[0] == num_seqs
        assert batch.query_starts[0] == 0
        assert batch.query_starts[-1] == len(batch.token_ids)
        assert (np.diff(batch.query_starts) > 0).all()
        lengths = batch.context_lens + np.diff(batch.query_starts)
        assert lengths.max() <= self.config.n_positions
        arrays = (
            batch.token_ids,
            batch.query_starts,
            batch.context_lens,
            batch.block_tables,
            batch.logit_rows,
        )
        assert all(array.dtype == np.int32 for array in arrays)


class Ready:
    """Tokens that are known already."""

    times = None

    def __init__(self, tokens: NDArray[np.int32]) -> None:
        self.tokens = tokens

    def wait(self) -> NDArray[np.int32]:
        return self.tokens


@dataclass
class MockSamplingRunner(MockRunner):
    """One that chooses tokens itself, of logits as they are, and runs ahead, as the CUDA runner."""

    max_steps: int = 5
    processes_logits: bool = False
    runs_ahead: bool = True
    stop_flag: _C.StopFlag = field(default_factory=_C.StopFlag)
    runs: list[int] = field(default_factory=list)  # steps of each call for single tokens

    def sample(
        self,
        batch: StepBatch,
        sampling: RowSampling,
        steps: int = 1,
        stop_tokens: NDArray[np.int32] = NO_TOKENS,
    ) -> Ready:
        if len(batch.token_ids) == len(batch.context_lens) == len(batch.logit_rows):
            self._batch, self._sampling = batch, sampling
            return self._run(batch.block_tables, steps)
        assert steps == 1
        return Ready(_draw(self.step(batch), sampling)[:, None])

    def sample_more(self, block_tables: NDArray[np.int32], steps: int) -> Ready:
        return self._run(block_tables, steps)

    def step_and_sample(
        self, batch: StepBatch, sampling: RowSampling
    ) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        logits = self.step(batch)
        return logits, _draw(logits, sampling)

    def _run(self, block_tables: NDArray[np.int32], steps: int) -> Ready:
        assert 1 <= steps <= self.max_steps
        self.runs.append(steps)
        columns = []
        for _ in range(steps):
            batch = replace(self._batch, block_tables=block_tables)
            columns.append(_draw(self.step(batch), self._sampling))
            contexts = self._batch.context_lens + np.int32(1)
            self._batch = replace(self._batch, token_ids=columns[-1], context_lens=contexts)
            self._sampling = replace(self._sampling, draw=self._sampling.draw + 1)
        return Ready(np.stack(columns, axis=1))


def _draw(logits: NDArray[np.float32], sampling: RowSampling) -> NDArray[np.int32]:
    assert len(logits) == len(sampling.seed)
    assert not any(sampling.processing)
    tokens = []
    for row, values in enumerate(logits):
        if not np.isfinite(values.max()):
            tokens.append(-1)
            continue
        params = SamplingParams(
            temperature=float(sampling.temperature[row]),
            top_k=int(sampling.top_k[row]),
            top_p=float(sampling.top_p[row]),
            min_p=float(sampling.min_p[row]),
        )
        key = int(sampling.seed[row]), int(sampling.stream[row]), int(sampling.draw[row])
        tokens.append(choose(values, params, *key))
    return np.array(tokens, np.int32)


def byte_tokenizer() -> Tokenizer:
    """One token for each byte, id = byte, and the special token EOS."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    spelling = {byte: chr(byte) for byte in printable}
    others = (byte for byte in range(256) if byte not in spelling)
    spelling.update({byte: chr(256 + rank) for rank, byte in enumerate(list(others))})
    tokenizer = Tokenizer(models.BPE(vocab={spelling[b]: b for b in range(256)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|endoftext|>"])
    return tokenizer
