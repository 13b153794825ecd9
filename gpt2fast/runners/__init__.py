"""Runners: one forward step over a paged cache, each on its kind of device."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpt2fast.checkpoint.exported import Export
from gpt2fast.errors import OptionError, UnsupportedError
from gpt2fast.quantization import Quantization
from gpt2fast.runners.base import Runner, StepBatch

if TYPE_CHECKING:
    from gpt2fast.checkpoint import Checkpoint

__all__ = [
    "Runner",
    "StepBatch",
    "check_settled",
    "cpu_dtype",
    "kv_format",
    "make_runner",
    "tokens_in_a_block",
]

_DEVICES = (
    "'auto', 'cpu', 'cuda', 'cuda:<index>', 'torch' or 'torch:<device>' (such as 'torch:mps')"
)
BLOCK_SIZE = 16  # tokens in a cache block


def tokens_in_a_block(model: Checkpoint | Export) -> int:
    """Of the cache of ``model``: in onnxruntime a sequence has a whole context at one place."""
    return model.config.n_positions if isinstance(model, Export) else BLOCK_SIZE


def make_runner(
    model: Checkpoint | Export,
    *,
    device: str,
    dtype: str,
    quantization: Quantization | None = None,
    kv_cache_dtype: str = "auto",
    num_threads: int | None,
    num_blocks: int,
    block_size: int = BLOCK_SIZE,
    max_batch_tokens: int,
    max_seqs: int,
) -> Runner:
    """The runner for ``device``: "auto" and "cpu" are the C++ one, "cuda[:index]" Triton's,
    "torch[:device]" PyTorch's. An export runs in onnxruntime, on the CPU or "cuda[:index]".

    A checkpoint that is stored quantized brings its own ``quantization``; on torch it runs with the
    values that its integers stand for.

    Raises ``OptionError`` for a device that does not exist, ``UnsupportedError`` for one, or for a
    dtype or block size on it, that this version cannot run.
    """
    if isinstance(model, Export):
        check_settled(model, dtype, quantization, kv_cache_dtype)
        from gpt2fast.runners.onnx import OnnxRunner

        return OnnxRunner(
            model,
            device="cpu" if device == "auto" else device,
            num_threads=num_threads,
            num_blocks=num_blocks,
            max_batch_tokens=max_batch_tokens,
            max_seqs=max_seqs,
        )
    checkpoint = model
    kind, _, torch_device = device.partition(":")
    if device in ("auto", "cpu"):
        dtype = cpu_dtype(checkpoint, dtype)
        if block_size != BLOCK_SIZE:
            raise UnsupportedError(
                f"block_size = {block_size} is not available on the cpu runner; use {BLOCK_SIZE}"
            )
        from gpt2fast.runners.cpu import CpuRunner

        return CpuRunner(
            checkpoint,
            dtype=dtype,
            quantization=quantization,
            kv_cache_dtype=kv_format(
                kv_cache_dtype, dtype, quantization or checkpoint.quantization
            ),
            num_threads=num_threads,
            num_blocks=num_blocks,
            max_batch_tokens=max_batch_tokens,
            max_seqs=max_seqs,
        )
    if kind in ("torch", "cuda"):
        _refuse_what_is_for_the_cpu(device, num_threads, kv_cache_dtype)
    if kind == "cuda":
        from gpt2fast.runners.cuda import CudaRunner

        return CudaRunner(
            checkpoint,
            device=device,
            dtype="float16" if dtype == "auto" else dtype,
            quantization=quantization,
            block_size=block_size,
            num_blocks=num_blocks,
            max_batch_tokens=max_batch_tokens,
            max_seqs=max_seqs,
        )
    if kind == "torch":
        if quantization is not None and quantization != checkpoint.quantization:
            raise UnsupportedError(
                f"quantization = {quantization.name!r} is not available with device = {device!r}; "
                "use 'cpu' or 'cuda'"
            )
        from gpt2fast.runners.torch import TorchRunner

        return TorchRunner(
            checkpoint,
            device=torch_device or "cpu",
            dtype="float32" if dtype == "auto" else dtype,
            block_size=block_size,
            num_blocks=num_blocks,
            max_batch_tokens=max_batch_tokens,
            max_seqs=max_seqs,
        )
    raise OptionError(f"device = {device!r} is not known; use {_DEVICES}")


def check_settled(
    export: Export, dtype: str, quantization: Quantization | None, kv_cache_dtype: str
) -> None:
    """Raises OptionError for an option of ``LLM`` that an export leaves no choice of."""
    name = None if quantization is None else quantization.name
    given = {"dtype": dtype, "quantization": name, "kv_cache_dtype": kv_cache_dtype}
    for option, value in given.items():
        if value not in (None, "auto"):
            raise OptionError(
                f"{option} = {value!r}, but {export.path} is an ONNX export, which is what it is; "
                "leave it out, or export the checkpoint in another precision"
            )


def _refuse_what_is_for_the_cpu(device: str, num_threads: int | None, kv_cache_dtype: str) -> None:
    if num_threads is not None:
        raise OptionError(
            f"num_threads = {num_threads} is for the cpu runner; with device = {device!r} set "
            "OMP_NUM_THREADS or call torch.set_num_threads"
        )
    if kv_cache_dtype != "auto":
        raise UnsupportedError(
            f"kv_cache_dtype = {kv_cache_dtype!r} is not available with device = {device!r}, "
            "where the cache has the dtype of the weights; use 'auto' or the cpu runner"
        )


def cpu_dtype(checkpoint: Checkpoint, dtype: str) -> str:
    """What the CPU runner keeps float weights in. Raises ``UnsupportedError`` for what it does not
    have, ``OptionError`` where ``checkpoint`` is quantized and one is asked for."""
    if checkpoint.quantization is not None and dtype != "auto":
        raise OptionError(
            f"dtype = {dtype!r}, but {checkpoint.path} is stored in "
            f"{checkpoint.quantization.name}; leave dtype at 'auto'"
        )
    if dtype not in ("auto", "float32", "bfloat16"):
        raise UnsupportedError(
            f"dtype = {dtype!r} is not available on the cpu runner; use 'auto', 'float32' or "
            "'bfloat16'"
        )
    return "float32" if dtype == "auto" else dtype


def kv_format(wanted: str, dtype: str, quantization: Quantization | None) -> str:
    """What the CPU runner keeps keys and values in. "auto" does not round them where the weights
    are float32, and halves their bytes where the weights are smaller."""
    if wanted != "auto":
        return wanted
    return "float32" if dtype == "float32" and quantization is None else "bfloat16"
