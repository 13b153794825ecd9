"""What the engine asks of the block pool of the KV cache."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class BlockPool(Protocol):
    """The methods of ``gpt2fast._C.BlockPool`` that the engine uses."""

    @property
    def num_free(self) -> int: ...

    def create(self, tokens: NDArray[np.int32]) -> tuple[int, int]: ...

    def reserve(self, seq: int, length: int) -> list[tuple[int, int]]: ...

    def commit(self, seq: int, tokens: NDArray[np.int32]) -> None: ...

    def fork(self, seq: int) -> int: ...

    def truncate(self, seq: int, length: int) -> None: ...

    def free(self, seq: int) -> None: ...

    def fill_block_tables(self, seqs: NDArray[np.int64], out: NDArray[np.int32]) -> None: ...

    def stats(self) -> dict[str, int]: ...
