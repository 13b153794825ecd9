from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

BLOCK_TOKENS: int
MAX_HEAD_SIZE: int
LOGITS_NOT_FINITE: int
NO_TOKEN_LEFT: int
PROCESSING_OVERFLOW: int

def isa() -> str: ...
def available_isas() -> list[str]: ...
def measure_read_bandwidth(
    num_threads: int, megabytes: int = 512, repeats: int = 5
) -> list[float]: ...
def measure_arithmetic_peak(format: str, num_threads: int, repeats: int = 5) -> list[float]: ...
def measure_peak_per_cycle(format: str, repeats: int = 100) -> list[tuple[float, float, float]]: ...
def uniform_doubles(
    words: NDArray[np.uint64], used: int, count: int, places: NDArray[np.int64]
) -> tuple[NDArray[np.float64], int]: ...
def draw_tokens(
    logits: NDArray[np.float32],
    temperature: float,
    top_k: int,
    top_p: float,
    least: int,
    words: NDArray[np.uint64],
    used: int,
) -> tuple[NDArray[np.int64] | None, int]: ...
def sample(logits: NDArray[np.float32], sampling: SamplingRows) -> NDArray[np.int32]: ...

class LogitsProcessing:
    def __init__(
        self,
        *,
        bias: list[tuple[int, float]],
        repetition: float,
        presence: float,
        frequency: float,
        banned: NDArray[np.int32],
        min_tokens: int,
    ) -> None: ...
    def apply(self, logits: NDArray[np.float32]) -> None: ...
    def see(self, tokens: NDArray[np.int32], is_output: bool) -> None: ...

class SamplingRows:
    def __init__(
        self,
        temperature: NDArray[np.float32],
        top_k: NDArray[np.int32],
        top_p: NDArray[np.float32],
        min_p: NDArray[np.float32],
        seed: NDArray[np.uint64],
        stream: NDArray[np.int32],
        draw: NDArray[np.int32],
        processing: Sequence[LogitsProcessing | None],
    ) -> None: ...

class StopFlag:
    def __init__(self) -> None: ...
    def set(self) -> None: ...
    def clear(self) -> None: ...
    def is_set(self) -> bool: ...

class BlockPool:
    def __init__(self, num_blocks: int, block_size: int, prefix_caching: bool = True) -> None: ...
    def create(self, tokens: NDArray[np.int32]) -> tuple[int, int]: ...
    def reserve(self, sequence: int, length: int) -> list[tuple[int, int]]: ...
    def commit(self, sequence: int, tokens: NDArray[np.int32]) -> None: ...
    def fork(self, sequence: int) -> int: ...
    def truncate(self, sequence: int, length: int) -> None: ...
    def free(self, sequence: int) -> None: ...
    def length(self, sequence: int) -> int: ...
    def block_table(self, sequence: int) -> NDArray[np.int32]: ...
    def fill_block_tables(self, sequences: NDArray[np.int64], out: NDArray[np.int32]) -> None: ...
    @property
    def block_size(self) -> int: ...
    @property
    def num_free(self) -> int: ...
    def stats(self) -> dict[str, int]: ...
    def clear(self) -> None: ...

class SequenceGroup:
    def __init__(self, pool: BlockPool, count: int) -> None: ...
    @property
    def ids(self) -> list[int]: ...
    def fork(self, rows: list[int]) -> SequenceGroup: ...

class Decoder:
    def __init__(
        self,
        *,
        vocab: int,
        positions: int,
        width: int,
        head_size: int,
        epsilon: float,
        activation: str,
        tied_head: bool,
        layers: list[tuple[int, int, float]],
        formats: dict[str, tuple[str, int]],
        kv_format: str,
        num_threads: int,
        num_blocks: int,
        max_batch_tokens: int,
    ) -> None: ...
    def load(self, name: str, dtype: str, shape: list[int], data: Any) -> None: ...
    def load_packed(self, name: str, data: Any) -> None: ...
    def packed(self, name: str) -> NDArray[np.uint8]: ...
    def vector(self, name: str) -> NDArray[np.float32]: ...
    def missing(self) -> list[str]: ...
    def step(
        self,
        token_ids: NDArray[np.int32],
        query_starts: NDArray[np.int32],
        context_lens: NDArray[np.int32],
        block_tables: NDArray[np.int32],
        logit_rows: NDArray[np.int32],
        logits: NDArray[np.float32] | None,
        hidden: NDArray[np.float32] | None = None,
    ) -> None: ...
    def sample(
        self,
        token_ids: NDArray[np.int32],
        query_starts: NDArray[np.int32],
        context_lens: NDArray[np.int32],
        block_tables: NDArray[np.int32],
        logit_rows: NDArray[np.int32],
        logits: NDArray[np.float32],
        sampling: SamplingRows,
        steps: int,
        stop_tokens: NDArray[np.int32],
        stop: StopFlag | None,
        keep_logits: bool,
    ) -> tuple[NDArray[np.int32], NDArray[np.float64]]: ...
    def copy_blocks(self, pairs: NDArray[np.int32]) -> None: ...
    def read_cache(
        self, layer: int, blocks: NDArray[np.int32], length: int
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]: ...
    @property
    def weight_bytes(self) -> int: ...
    @property
    def bytes_per_step(self) -> int: ...
    @property
    def cache_bytes(self) -> int: ...
    @property
    def num_threads(self) -> int: ...

class KvStorage:
    def __init__(self, format: str, heads: int, head_size: int, num_blocks: int) -> None: ...
    @property
    def bytes(self) -> int: ...

class Kernels:
    def __init__(self, num_threads: int) -> None: ...
    @property
    def isa(self) -> str: ...
    def pack_matrix(
        self, weights: NDArray[np.float32], format: str, group: int
    ) -> NDArray[np.uint8]: ...
    def matmul(
        self,
        x: NDArray[np.float32],
        packed: NDArray[np.uint8],
        format: str,
        group: int,
        outputs: int,
        bias: NDArray[np.float32] | None = None,
        activation: str = "linear",
        activation_parameters: list[float] = ...,
        residual: NDArray[np.float32] | None = None,
    ) -> NDArray[np.float32]: ...
    def layer_norm(
        self,
        x: NDArray[np.float32],
        weight: NDArray[np.float32],
        bias: NDArray[np.float32],
        epsilon: float,
    ) -> NDArray[np.float32]: ...
    def append(
        self,
        storage: KvStorage,
        blocks: NDArray[np.int32],
        position: int,
        keys: NDArray[np.float32],
        values: NDArray[np.float32],
    ) -> None: ...
    def attend(
        self,
        storage: KvStorage,
        block_tables: NDArray[np.int32],
        context_lens: NDArray[np.int32],
        queries: NDArray[np.float32],
        scale: float,
    ) -> NDArray[np.float32]: ...
