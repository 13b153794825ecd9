"""``HostSampling``: a ``SamplingRunner`` made of any runner, with the C++ sampler behind it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gpt2fast import _C
from gpt2fast.runners.base import (
    NO_TOKENS,
    KnownTokens,
    RowSampling,
    Runner,
    SamplingRunner,
    StepBatch,
)


def choose_tokens(logits: NDArray[np.float32], sampling: RowSampling) -> NDArray[np.int32]:
    """A token for each row of ``logits`` (R, V), or a value below 0, as ``_C.sample`` says."""
    return _C.sample(np.ascontiguousarray(logits, np.float32), sampling.native())


class HostSampling:
    """Takes one step a call. Sizes are those of ``runner``."""

    max_steps = 1
    processes_logits = True
    runs_ahead = False

    def __init__(self, runner: Runner) -> None:
        self.runner = runner
        self.config = runner.config
        self.block_size, self.num_blocks = runner.block_size, runner.num_blocks
        self.max_batch_tokens, self.max_seqs = runner.max_batch_tokens, runner.max_seqs
        self.stop_flag = _C.StopFlag()

    def step(self, batch: StepBatch) -> NDArray[np.float32]:
        """Logits (R, V)."""
        return self.runner.step(batch)

    def copy_blocks(self, pairs: NDArray[np.int32]) -> None:
        """Copy cache blocks ``pairs`` (N, 2)."""
        self.runner.copy_blocks(pairs)

    def sample(
        self,
        batch: StepBatch,
        sampling: RowSampling,
        steps: int = 1,
        stop_tokens: NDArray[np.int32] = NO_TOKENS,
    ) -> KnownTokens:
        """One step, and a token for each row whose logits are wanted."""
        assert steps == 1
        return KnownTokens(self.step_and_sample(batch, sampling)[1][:, None])

    def sample_more(self, block_tables: NDArray[np.int32], steps: int) -> KnownTokens:
        """Never called: this does not run ahead."""
        raise NotImplementedError

    def step_and_sample(
        self, batch: StepBatch, sampling: RowSampling
    ) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        """Logits (R, V), and a token chosen from each row (R,)."""
        logits = self.step(batch)
        return logits, choose_tokens(logits, sampling)


def with_sampling(runner: Runner) -> SamplingRunner:
    """``runner`` itself if it chooses tokens, else one that does it for it."""
    return runner if isinstance(runner, SamplingRunner) else HostSampling(runner)
