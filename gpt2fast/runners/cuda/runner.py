"""``CudaRunner``: the engine's steps on an NVIDIA GPU.

Shapes: T rows of a step, S sequences, R rows whose logits are wanted, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import layer_norm

from gpt2fast import _C
from gpt2fast.errors import OptionError, UnsupportedError
from gpt2fast.kernels.triton.head import head_logits
from gpt2fast.kernels.triton.linear import check_activation
from gpt2fast.kernels.triton.row_state import MOST_STEPS
from gpt2fast.runners.base import NO_TOKENS, RowSampling, StepBatch, check_sizes
from gpt2fast.runners.cuda.decode import Decoder, Pending
from gpt2fast.runners.cuda.device import check_float8, gpu
from gpt2fast.runners.cuda.forward import Forward
from gpt2fast.runners.cuda.weights import load
from gpt2fast.runners.model_format import ModelFormat, resolve_format

if TYPE_CHECKING:
    from gpt2fast.checkpoint import Checkpoint

MOST_HEAD_SIZE = 256
MOST_SEQS = 2**15  # a grid has 65,535 programs along its last axis, and slots are powers of two


class CudaRunner:
    """Runs a checkpoint with the kernels of ``gpt2fast.kernels.triton``: a ``SamplingRunner``.

    With TRITON_INTERPRET=1 the kernels are interpreted on the CPU, very slowly: for tests.

    Args:
        checkpoint: an open checkpoint; its tensors are copied.
        model_format: as ``resolve_format`` decides it for ``checkpoint``; by default, what it is on
            "cuda" without options. Its dtype is that of activations and cache, too; sums and the
            softmax are float32.
        block_size: tokens in a cache block.
        num_blocks: cache blocks.
        max_batch_tokens: the largest number of new tokens in a step.
        max_seqs: the largest number of sequences in a step.

    Raises:
        OptionError: an option is out of range, there is no such GPU, or its memory is too small.
        UnsupportedError: the activation or the head size has no kernel.
        CheckpointError: a tensor holds NaN, or values that ``dtype`` cannot hold.
    """

    max_steps = 8
    processes_logits = False
    runs_ahead = True

    def __init__(
        self,
        checkpoint: Checkpoint,
        model_format: ModelFormat | None = None,
        *,
        block_size: int = 16,
        num_blocks: int,
        max_batch_tokens: int = 512,
        max_seqs: int = 64,
    ) -> None:
        self.config = checkpoint.config
        self.stop_flag = _C.StopFlag()  # a call is short: nothing looks at it
        self.block_size, self.num_blocks = block_size, num_blocks
        self.max_batch_tokens, self.max_seqs = max_batch_tokens, max_seqs
        check_sizes(self)
        if max_seqs > MOST_SEQS:
            raise OptionError(f"max_seqs = {max_seqs} is not valid; give at most {MOST_SEQS}")
        self._check_model()
        form = model_format or resolve_format(checkpoint, device="cuda")
        self.device = gpu(form.device)
        self.quantization = form.quantization
        if self.quantization is not None and self.quantization.blocks.name == "fp8":
            check_float8(self.device)
        # Its own stream: what the caller makes the current one may change from call to call.
        self._stream = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None
        try:
            with self._active():
                dtype = getattr(torch, form.dtype)
                weights = load(checkpoint, self.device, dtype, self.quantization)
                self._forward = Forward(self.config, weights, num_blocks, block_size, max_seqs)
                self._decoder = Decoder(self._forward, max_seqs, block_size)
                self._decoder.warm_up()
        except RuntimeError as error:
            # Triton and graphs report it with errors of their own.
            if "out of memory" not in str(error):
                raise
            raise OptionError(
                f"no memory on {form.device} for the weights and a cache of {num_blocks} blocks of "
                f"{block_size} tokens; lower kv_cache_tokens"
            ) from None

    def _check_model(self) -> None:
        check_activation(self.config.activation_function)
        size = self.config.head_size
        if size > MOST_HEAD_SIZE:
            raise UnsupportedError(
                f"heads of {size} exceed the {MOST_HEAD_SIZE} of the GPU kernels; "
                'use device="torch:cuda"'
            )

    def step(self, batch: StepBatch) -> NDArray[np.float32]:
        """Run one step and return logits (R, V); the array is the caller's."""
        with self._active():
            return self._logits(self._hidden(batch), batch.logit_rows)

    def hidden_states(self, batch: StepBatch) -> NDArray[np.float32]:
        """Run one step without the head: (R, C), what the last LayerNorm makes of the rows whose
        logits would be computed. The array is the caller's."""
        with self._active():
            rows = self._hidden(batch)[self._to_device(batch.logit_rows)].float()
            norm = self._forward.weights.norm
            weight, bias = norm.weight.float(), norm.bias.float()
            found = layer_norm(rows, rows.shape[-1:], weight, bias, norm.epsilon)
            hidden: NDArray[np.float32] = found.cpu().numpy()
            return hidden

    def sample(
        self,
        batch: StepBatch,
        sampling: RowSampling,
        steps: int = 1,
        stop_tokens: NDArray[np.int32] = NO_TOKENS,
    ) -> Pending:
        """Run one step, or ``steps`` of single tokens, and choose a token from each row; nobody
        looks for ``stop_tokens`` meanwhile."""
        if not 1 <= steps <= MOST_STEPS:
            raise OptionError(f"steps = {steps} is not allowed; give 1 to {MOST_STEPS}")
        with self._active():
            if len(batch.token_ids) == len(batch.context_lens) == len(batch.logit_rows):
                return self._decoder.start(batch, sampling, steps)
            if steps > 1:
                raise OptionError(f"steps = {steps} needs a batch of one token a sequence; give 1")
            return self._decoder.choose(self._hidden(batch), batch.logit_rows, sampling)

    def sample_more(self, block_tables: NDArray[np.int32], steps: int) -> Pending:
        """Go on with the sequences of the last ``sample`` of single tokens."""
        with self._active():
            return self._decoder.go_on(block_tables, steps)

    def step_and_sample(
        self, batch: StepBatch, sampling: RowSampling
    ) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        """Logits (R, V), and a token chosen from each row (R,)."""
        with self._active():
            hidden = self._hidden(batch)
            pending = self._decoder.choose(hidden, batch.logit_rows, sampling)
            return self._logits(hidden, batch.logit_rows), pending.wait()[:, 0]

    def copy_blocks(self, pairs: NDArray[np.int32]) -> None:
        """Copy cache blocks, all layers: ``pairs`` (N, 2) holds (source, destination)."""
        with self._active():
            source, destination = self._to_device(np.ascontiguousarray(pairs.T, np.int64))
            self._forward.copy_blocks(source, destination)

    def read_cache(
        self, layer: int, blocks: NDArray[np.int32], length: int
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Keys and values (H, length, D) of ``layer``, of the sequence in ``blocks`` (M,)."""
        with self._active():
            cache = self._forward.cache[layer]  # (blocks, 2, H, tokens of a block, D)
            found = cache[self._to_device(blocks).long()].float().permute(1, 2, 0, 3, 4)
            keys, values = found.flatten(2, 3)[:, :, :length].cpu().numpy()
            return keys, values

    @contextmanager
    def _active(self) -> Iterator[None]:
        """Kernels are launched on the current device's stream; no gradients are kept."""
        with torch.inference_mode():
            if self._stream is None:
                yield
                return
            with torch.cuda.stream(self._stream):
                yield

    def _hidden(self, batch: StepBatch) -> Tensor:
        return self._forward.hidden(*self._forward.inputs(batch))

    def _logits(self, hidden: Tensor, rows: NDArray[np.int32]) -> NDArray[np.float32]:
        picked = self._to_device(rows)
        logits: NDArray[np.float32] = (
            head_logits(hidden, picked, self._forward.weights.head).cpu().numpy()
        )
        return logits

    def _to_device(self, array: NDArray[np.integer]) -> Tensor:
        return torch.from_numpy(array).to(self.device)
