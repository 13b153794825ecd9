"""The runner of a network, with a cache sized by the memory of its device."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import nn

from gpt2fast.checkpoint import Checkpoint
from gpt2fast.config import ModelConfig
from gpt2fast.hf.backend.options import Options, runner_device
from gpt2fast.host import physical_memory
from gpt2fast.runners import BLOCK_SIZE, FormatOptions, ModelFormat, resolve_format
from gpt2fast.runners.cpu import CpuRunner
from gpt2fast.runners.kv_memory import bytes_per_token

if TYPE_CHECKING:
    from gpt2fast.runners.cuda import CudaRunner

MAX_BATCH_TOKENS = 512  # tokens, and sequences, of one step
# The largest share of memory that the KV cache may take. On a CPU pages are taken as they are used;
# on a GPU all of it is allocated at once.
_CPU_MEMORY_SHARE, _GPU_MEMORY_SHARE = 0.5, 0.25
_MAX_CONTEXTS = 1024  # whole contexts that the KV cache holds, at most
_INTERPRETER_MEMORY = 2**28  # bytes for the KV cache where Triton's interpreter stands for a GPU
_DTYPES = {torch.float16: "float16", torch.bfloat16: "bfloat16"}


def make_runner(
    checkpoint: Checkpoint, network: nn.Module, options: Options
) -> CpuRunner | CudaRunner:
    """The runner of ``network``, whose weights ``checkpoint`` reads.

    Raises what the constructors of runners raise."""
    if runner_device(network, options).type == "cpu":
        return _cpu_runner(checkpoint, options)
    return _cuda_runner(checkpoint, network, options)


def _cpu_runner(checkpoint: Checkpoint, options: Options) -> CpuRunner:
    form = _format(checkpoint, options, "cpu")
    memory = int(physical_memory() * _CPU_MEMORY_SHARE)
    return CpuRunner(
        checkpoint,
        form,
        num_threads=options.num_threads,
        num_blocks=_num_blocks(checkpoint.config, form.kv_cache_dtype, memory),
        max_batch_tokens=MAX_BATCH_TOKENS,
        max_seqs=MAX_BATCH_TOKENS,
    )


def _cuda_runner(checkpoint: Checkpoint, network: nn.Module, options: Options) -> CudaRunner:
    from gpt2fast.runners.cuda import CudaRunner

    dtype = _DTYPES.get(next(network.parameters()).dtype, "float32")  # of activations, too
    device, memory = runner_device(network, options), _INTERPRETER_MEMORY
    if torch.cuda.is_available():
        memory = int(torch.cuda.mem_get_info(device)[0] * _GPU_MEMORY_SHARE)
    return CudaRunner(
        checkpoint,
        replace(_format(checkpoint, options, str(device)), dtype=dtype, kv_cache_dtype=dtype),
        num_blocks=_num_blocks(checkpoint.config, dtype, memory),
        max_batch_tokens=MAX_BATCH_TOKENS,
        max_seqs=MAX_BATCH_TOKENS,
    )


def _format(checkpoint: Checkpoint, options: Options, device: str) -> ModelFormat:
    return resolve_format(checkpoint, FormatOptions(quantization=options.quantization), device)


def _num_blocks(config: ModelConfig, dtype: str, memory: int) -> int:
    """Blocks for as many whole contexts as fit into ``memory`` bytes, and for at least one."""
    contexts = memory // (config.n_positions * bytes_per_token(config, dtype))
    return min(max(contexts, 1), _MAX_CONTEXTS) * -(-config.n_positions // BLOCK_SIZE)
