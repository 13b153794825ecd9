"""The specification of a runner: plain torch over ``kernels/reference.py``, on any torch device.

Shapes: T rows of a step, S cached plus new tokens of one sequence, C width, H heads of a layer,
D head size, R rows whose logits are wanted, V vocabulary.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gpt2fast.errors import MissingDependencyError, OptionError
from gpt2fast.runners.base import StepBatch, check_sizes
from gpt2fast.runners.model_format import ModelFormat, resolve_format

try:
    import torch
    from torch import Tensor
except ImportError:
    raise MissingDependencyError(
        "device 'torch' needs PyTorch: pip install 'gpt2fast[torch]'"
    ) from None

from gpt2fast.kernels import reference
from gpt2fast.model.weights import read_tensor

if TYPE_CHECKING:
    from gpt2fast.checkpoint import Checkpoint


class TorchRunner:
    """Runs a checkpoint through the reference operations.

    Args:
        checkpoint: an open checkpoint; its tensors are copied.
        model_format: as ``resolve_format`` decides it for ``checkpoint``; by default, what it is on
            "torch" without options. Its dtype is that of weights, arithmetic and cache.
        block_size: tokens in a cache block.
        num_blocks: cache blocks.
        max_batch_tokens: the largest number of new tokens in a step.
        max_seqs: the largest number of sequences in a step.

    Raises:
        OptionError: an option is out of range, the device cannot be had, or memory runs out.
        CheckpointError: a tensor holds NaN, or values that ``dtype`` cannot hold.
    """

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
        self.block_size, self.num_blocks = block_size, num_blocks
        self.max_batch_tokens, self.max_seqs = max_batch_tokens, max_seqs
        check_sizes(self)
        form = model_format or resolve_format(checkpoint, device="torch")
        device = form.device.partition(":")[2] or "cpu"
        self.device, self.dtype = _device(device), getattr(torch, form.dtype)
        try:
            self._weights = {
                name: read_tensor(checkpoint, name, self.device, self.dtype)
                for name in checkpoint.names
            }
            self._keys, self._values = self._cache(), self._cache()
        except RuntimeError as error:
            if "memory" not in str(error):
                raise
            raise OptionError(
                f"no memory on {device} for the weights and a cache of {num_blocks} blocks of "
                f"{block_size} tokens; lower kv_cache_tokens ({_first_line(error)})"
            ) from None

    def _cache(self) -> list[Tensor]:
        """(num_blocks, block_size, H, D) a layer. Only slots that were written are ever read."""
        slots, head_size = (self.num_blocks, self.block_size), self.config.head_size
        return [
            torch.empty(*slots, shape.n_head, head_size, dtype=self.dtype, device=self.device)
            for shape in self.config.layer_shapes
        ]

    @torch.inference_mode()
    def step(self, batch: StepBatch) -> NDArray[np.float32]:
        """Run one step and return logits (R, V); the array is the caller's."""
        rows = _Rows(batch, self.block_size, self.device)
        tokens = self._to_device(batch.token_ids)
        x = self._weights["wte.weight"][tokens] + self._weights["wpe.weight"][rows.positions]
        for layer in range(self.config.n_layer):
            x = x + self._attention(layer, self._norm(x, f"h.{layer}.ln_1"), rows)
            x = x + self._mlp(layer, self._norm(x, f"h.{layer}.ln_2"))
        x = self._norm(x[self._to_device(batch.logit_rows)], "ln_f")
        head = "wte.weight" if self.config.tie_word_embeddings else "lm_head.weight"
        logits: NDArray[np.float32] = (x @ self._weights[head].T).float().cpu().numpy()
        return logits

    def copy_blocks(self, pairs: NDArray[np.int32]) -> None:
        """Copy cache blocks, all layers: ``pairs`` (N, 2) holds (source, destination)."""
        source, destination = self._to_device(np.ascontiguousarray(pairs.T))
        for cache in (*self._keys, *self._values):
            cache[destination] = cache[source]

    def _attention(self, layer: int, x: Tensor, rows: _Rows) -> Tensor:
        """x (T, C) -> (T, C); appends the keys and values of the T rows to the cache first."""
        heads = (-1, 3, self.config.layer_shape(layer).n_head, self.config.head_size)
        q, k, v = self._linear(x, f"h.{layer}.attn.c_attn").view(heads).unbind(1)  # (T, H, D)
        keys, values = self._keys[layer], self._values[layer]
        keys[rows.blocks, rows.slots] = k
        values[rows.blocks, rows.slots] = v
        scale = self.config.attention_scale(layer)
        mixed = torch.empty_like(q)
        for span, table, length in rows.sequences:
            mixed[span] = reference.attention(
                q[span].transpose(0, 1)[None],  # (1, H, T, D)
                keys[table].flatten(0, 1)[:length].transpose(0, 1)[None],  # (1, H, S, D)
                values[table].flatten(0, 1)[:length].transpose(0, 1)[None],
                scale,
                upcast=self.config.reorder_and_upcast_attn,
            )[0].transpose(0, 1)
        return self._linear(mixed.flatten(1), f"h.{layer}.attn.c_proj")

    def _mlp(self, layer: int, x: Tensor) -> Tensor:
        """x (T, C) -> (T, C)."""
        prefix = f"h.{layer}.mlp.act."
        own = {k.removeprefix(prefix): v for k, v in self._weights.items() if k.startswith(prefix)}
        activation = reference.activation(self.config.activation_function, own)
        hidden = activation(self._linear(x, f"h.{layer}.mlp.c_fc"))
        return self._linear(hidden, f"h.{layer}.mlp.c_proj")

    def _norm(self, x: Tensor, name: str) -> Tensor:
        weight, bias = self._weights[f"{name}.weight"], self._weights[f"{name}.bias"]
        return reference.layer_norm(x, weight, bias, self.config.layer_norm_epsilon)

    def _linear(self, x: Tensor, name: str) -> Tensor:
        weight, bias = self._weights[f"{name}.weight"], self._weights[f"{name}.bias"]
        return reference.linear(x, weight, bias)

    def _to_device(self, array: NDArray[np.int32]) -> Tensor:
        return torch.from_numpy(array.astype(np.int64)).to(self.device)


class _Rows:
    """Where the rows of a step stand: their positions, cache slots, and each sequence's part."""

    def __init__(self, batch: StepBatch, block_size: int, device: torch.device) -> None:
        counts, (owner, positions) = batch.counts, batch.locate_rows()
        blocks = batch.block_tables[owner, positions // block_size]
        self.positions, self.blocks, self.slots = (
            torch.from_numpy(array.astype(np.int64)).to(device)
            for array in (positions, blocks, positions % block_size)
        )
        # For each sequence with rows: its rows, its cache blocks, and its length after the step.
        self.sequences: list[tuple[slice, Tensor, int]] = []
        for index in np.flatnonzero(counts):
            length = int(batch.context_lens[index] + counts[index])
            table = batch.block_tables[index, : -(-length // block_size)].astype(np.int64)
            span = slice(int(batch.query_starts[index]), int(batch.query_starts[index + 1]))
            self.sequences.append((span, torch.from_numpy(table).to(device), length))


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).cpu()  # there are devices that compute nothing, as "meta"
    except (RuntimeError, AssertionError, NotImplementedError, ImportError) as error:
        raise OptionError(
            f"device = 'torch:{name}' cannot be had ({_first_line(error)}); use 'torch:cpu', or "
            "install a torch built for it"
        ) from None
    return device


def _first_line(error: BaseException) -> str:
    """The first sentence; torch goes on for pages at times."""
    return str(error).partition("\n")[0].partition(". ")[0]
