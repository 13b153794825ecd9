"""From a checkpoint or an export to the runner that its format asks for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpt2fast.checkpoint.exported import Export
from gpt2fast.errors import OptionError, UnsupportedError
from gpt2fast.runners.base import Runner
from gpt2fast.runners.model_format import ModelFormat

if TYPE_CHECKING:
    from gpt2fast.checkpoint import Checkpoint

BLOCK_SIZE = 16  # tokens in a cache block


def tokens_in_a_block(model: Checkpoint | Export) -> int:
    """Of the cache of ``model``: in onnxruntime a slot holds a whole context."""
    return model.config.n_positions if isinstance(model, Export) else BLOCK_SIZE


def make_runner(
    model: Checkpoint | Export,
    model_format: ModelFormat,
    *,
    num_threads: int | None,
    num_blocks: int,
    block_size: int = BLOCK_SIZE,
    max_batch_tokens: int,
    max_seqs: int,
) -> Runner:
    """The runner that ``resolve_format`` chose for ``model``: the C++ one, Triton's, PyTorch's, or
    onnxruntime for an export.

    Raises ``OptionError`` for a device that does not exist or an option that is not for it, and
    ``UnsupportedError`` for a block size that the runner does not have.
    """
    if isinstance(model, Export):
        from gpt2fast.runners.onnx import OnnxRunner

        return OnnxRunner(
            model,
            device=model_format.device,
            num_threads=num_threads,
            num_blocks=num_blocks,
            max_batch_tokens=max_batch_tokens,
            max_seqs=max_seqs,
        )
    if model_format.device == "cpu":
        if block_size != BLOCK_SIZE:
            raise UnsupportedError(
                f"block_size = {block_size} is not available on the cpu runner; use {BLOCK_SIZE}"
            )
        from gpt2fast.runners.cpu import CpuRunner

        return CpuRunner(
            model,
            model_format,
            num_threads=num_threads,
            num_blocks=num_blocks,
            max_batch_tokens=max_batch_tokens,
            max_seqs=max_seqs,
        )
    if num_threads is not None:
        raise OptionError(
            f"num_threads = {num_threads} is for the cpu runner; with device = "
            f"{model_format.device!r} set OMP_NUM_THREADS or call torch.set_num_threads"
        )
    if model_format.device.startswith("cuda"):
        from gpt2fast.runners.cuda import CudaRunner

        return CudaRunner(
            model,
            model_format,
            block_size=block_size,
            num_blocks=num_blocks,
            max_batch_tokens=max_batch_tokens,
            max_seqs=max_seqs,
        )
    from gpt2fast.runners.torch import TorchRunner

    return TorchRunner(
        model,
        model_format,
        block_size=block_size,
        num_blocks=num_blocks,
        max_batch_tokens=max_batch_tokens,
        max_seqs=max_seqs,
    )
