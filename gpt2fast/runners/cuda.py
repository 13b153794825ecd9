"""The CUDA runner: a step as Triton kernels over a paged cache.

Shapes: T rows of a step, S sequences, C width, H heads, D head size, L layers, R rows whose logits
are wanted, V vocabulary.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gpt2fast.errors import MissingDependencyError, OptionError, UnsupportedError
from gpt2fast.runners.base import StepBatch

try:
    import torch
    import triton  # noqa: F401
    from torch import Tensor
except ImportError:
    raise MissingDependencyError(
        "device 'cuda' needs PyTorch and Triton: pip install 'gpt2fast[gpu]'"
    ) from None

from gpt2fast.kernels.triton.attention_decode import SPLITS, SplitWorkspace, attention_decode
from gpt2fast.kernels.triton.attention_prefill import attention_prefill
from gpt2fast.kernels.triton.cache_append import cache_append
from gpt2fast.kernels.triton.linear import LayerNorm, check_activation, linear
from gpt2fast.model.weights import read_tensor

if TYPE_CHECKING:
    from gpt2fast.checkpoint import Checkpoint

DTYPES = ("float16", "bfloat16", "float32")
MOST_HEAD_SIZE = 256


@dataclass(frozen=True)
class Product:
    """A matrix of a block: weight (N, K), bias (N,), and the LayerNorm before it, if any."""

    weight: Tensor
    bias: Tensor
    norm: LayerNorm | None = None


@dataclass(frozen=True)
class Layer:
    """The four products of a block."""

    attention_in: Product
    attention_out: Product
    mlp_in: Product
    mlp_out: Product


class CudaRunner:
    """Runs a checkpoint with the kernels of ``gpt2fast.kernels.triton``.

    With TRITON_INTERPRET=1 the kernels are interpreted on the CPU, very slowly: for tests.

    Args:
        checkpoint: an open checkpoint; its tensors are copied.
        device: "cuda" or "cuda:<index>".
        dtype: of weights, activations and cache: "float16", "bfloat16" or "float32"; sums and the
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

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        device: str = "cuda",
        dtype: str = "float16",
        block_size: int = 16,
        num_blocks: int,
        max_batch_tokens: int = 512,
        max_seqs: int = 64,
    ) -> None:
        self.config = checkpoint.config
        self.block_size, self.num_blocks = block_size, num_blocks
        self.max_batch_tokens, self.max_seqs = max_batch_tokens, max_seqs
        if dtype not in DTYPES:
            raise OptionError(f"dtype = {dtype!r} is not known; use one of {', '.join(DTYPES)}")
        self._check_model()
        self.device, self.dtype = gpu(device), getattr(torch, dtype)
        try:
            self._load(checkpoint)
        except torch.OutOfMemoryError:
            raise OptionError(
                f"no memory on {device} for the weights and a cache of {num_blocks} blocks of "
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

    def _load(self, checkpoint: Checkpoint) -> None:
        c = self.config

        def read(name: str) -> Tensor:
            return read_tensor(checkpoint, name, self.device, self.dtype)

        def norm(name: str) -> LayerNorm:
            return LayerNorm(read(f"{name}.weight"), read(f"{name}.bias"), c.layer_norm_epsilon)

        def product(name: str, before: LayerNorm | None = None) -> Product:
            # GPT-2 stores (K, N).
            return Product(read(f"{name}.weight").T.contiguous(), read(f"{name}.bias"), before)

        self._tokens, self._positions = read("wte.weight"), read("wpe.weight")
        self._layers = [
            Layer(
                product(f"h.{i}.attn.c_attn", norm(f"h.{i}.ln_1")),
                product(f"h.{i}.attn.c_proj"),
                product(f"h.{i}.mlp.c_fc", norm(f"h.{i}.ln_2")),
                product(f"h.{i}.mlp.c_proj"),
            )
            for i in range(c.n_layer)
        ]
        head = self._tokens if c.tie_word_embeddings else read("lm_head.weight")
        self._head = Product(head, torch.zeros_like(head[:, 0]), norm("ln_f"))
        # (L, blocks, 2, H, block tokens, D). Only slots that were written are ever read.
        shape = (c.n_layer, self.num_blocks, 2, c.n_head, self.block_size, c.head_size)
        self._cache = torch.empty(shape, dtype=self.dtype, device=self.device)
        self._workspace = SplitWorkspace(
            self.max_seqs, c.n_head, c.head_size, SPLITS[-1], self.device
        )

    @torch.inference_mode()
    def step(self, batch: StepBatch) -> NDArray[np.float32]:
        """Run one step and return logits (R, V); the array is the caller's."""
        rows = _Rows(batch, self.device)
        x = self._tokens[rows.token_ids] + self._positions[rows.positions]
        for index, layer in enumerate(self._layers):
            attended = self._attend(index, self._apply(layer.attention_in, x), rows)
            x = self._apply(layer.attention_out, attended, residual=x)
            hidden = self._apply(layer.mlp_in, x, activation=self.config.activation_function)
            x = self._apply(layer.mlp_out, hidden, residual=x)
        x = x[self._to_device(batch.logit_rows)]
        logits: NDArray[np.float32] = self._apply(self._head, x).float().cpu().numpy()
        return logits

    def copy_blocks(self, pairs: NDArray[np.int32]) -> None:
        """Copy cache blocks, all layers: ``pairs`` (N, 2) holds (source, destination)."""
        source, destination = self._to_device(np.ascontiguousarray(pairs.T))
        self._cache[:, destination] = self._cache[:, source]

    def _apply(
        self,
        product: Product,
        x: Tensor,
        activation: str = "linear",
        residual: Tensor | None = None,
    ) -> Tensor:
        return linear(
            x,
            product.weight,
            product.bias,
            norm=product.norm,
            activation=activation,
            residual=residual,
        )

    def _attend(self, layer: int, qkv: Tensor, rows: _Rows) -> Tensor:
        """qkv (T, 3 C) -> (T, C); stores the keys and values of the rows first."""
        heads, scale = self.config.n_head, self.config.attention_scale(layer)
        cache = self._cache[layer]
        if rows.longest == 1 and rows.sequences == len(qkv):
            splits = self._splits(len(qkv))
            return attention_decode(
                qkv, cache, rows.contexts, rows.tables, heads, scale, splits, self._workspace
            )
        where = (rows.starts, rows.contexts, rows.tables)
        cache_append(qkv, cache, *where, heads, rows.longest)
        return attention_prefill(qkv, cache, *where, heads, scale, rows.longest)

    def _splits(self, sequences: int) -> int:
        """As many as fill the GPU with two programs a multiprocessor."""
        programs = sequences * self.config.n_head
        wanted = 2 * _multiprocessors(self.device) / programs
        return max((s for s in SPLITS if s <= wanted), default=1)

    def _to_device(self, array: NDArray[np.int32]) -> Tensor:
        return torch.from_numpy(array.astype(np.int64)).to(self.device)


class _Rows:
    """A ``StepBatch`` on the GPU."""

    def __init__(self, batch: StepBatch, device: torch.device) -> None:
        counts = np.diff(batch.query_starts)  # (S,)
        owner = np.repeat(np.arange(len(counts)), counts)  # (T,)
        within = np.arange(len(batch.token_ids)) - batch.query_starts[owner]
        positions = (batch.context_lens[owner] + within).astype(np.int32)
        self.longest, self.sequences = int(counts.max(initial=0)), len(counts)
        self.token_ids, self.positions, self.starts, self.contexts, self.tables = (
            torch.from_numpy(np.ascontiguousarray(array, np.int32)).to(device)
            for array in (
                batch.token_ids,
                positions,
                batch.query_starts,
                batch.context_lens,
                batch.block_tables,
            )
        )


def is_interpreted() -> bool:
    """Whether kernels run in Triton's interpreter, on the CPU."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def gpu(name: str) -> torch.device:
    """The device "cuda" or "cuda:<index>". Raises OptionError where there is no such GPU."""
    if is_interpreted():
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise OptionError(
            f"device = {name!r} cannot be had: PyTorch {torch.__version__} finds no NVIDIA GPU; "
            "use 'cpu', or install a driver and a torch built for CUDA"
        )
    try:
        device = torch.device(name)
    except RuntimeError:
        raise OptionError(f"device = {name!r} is not known; use 'cuda' or 'cuda:<index>'") from None
    count = torch.cuda.device_count()
    if device.index is not None and device.index >= count:
        raise OptionError(f"device = {name!r} does not exist; this machine has {count} GPUs")
    return device


def _multiprocessors(device: torch.device) -> int:
    if device.type != "cuda":
        return 132  # an H200's, for the interpreter
    return int(torch.cuda.get_device_properties(device).multi_processor_count)
