"""The CPU runner: the C++ decoder behind the runner interface. No torch."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gpt2fast import _C
from gpt2fast.checkpoint.packed import PackedTensor
from gpt2fast.checkpoint.safetensors_writer import NewTensor
from gpt2fast.checkpoint.tensor import FLOAT_TYPES, PACKED
from gpt2fast.errors import CheckpointError, OptionError, UnsupportedError
from gpt2fast.host import default_num_threads
from gpt2fast.quantization import EMBEDDING, HEAD
from gpt2fast.quantization.panel_layout import matrix_layouts
from gpt2fast.quantization.panels import decode_floats
from gpt2fast.runners.base import NO_TOKENS, KnownTokens, RowSampling, StepBatch
from gpt2fast.runners.model_format import ModelFormat, resolve_format

if TYPE_CHECKING:
    from gpt2fast.checkpoint import Checkpoint


class CpuRunner:
    """Runs a checkpoint on the CPU; the arithmetic is float32, or 8-bit integers.

    Args:
        checkpoint: an open checkpoint; its tensors are packed one by one and then released, so
            that the peak is little more than the weights.
        model_format: of weights and cache, as ``resolve_format`` decides it for ``checkpoint``; by
            default, what it is without options. Floats are rounded to integers as they are loaded.
        num_threads: default: one for each physical core this process may use.
        num_blocks: cache blocks of 16 tokens; memory is taken as they are used.
        max_batch_tokens: the largest number of new tokens in a step.
        max_seqs: the largest number of sequences in a step.
        loaded: is told of each tensor by name once it is packed.

    Raises:
        CheckpointError: a tensor holds NaN or infinite values.
        UnsupportedError: the head size is beyond what the kernels hold.
        OptionError: an option is out of range, or memory does not suffice.
    """

    block_size: int = _C.BLOCK_TOKENS
    max_steps = 32
    processes_logits = True
    runs_ahead = False

    def __init__(
        self,
        checkpoint: Checkpoint,
        model_format: ModelFormat | None = None,
        *,
        num_threads: int | None = None,
        num_blocks: int,
        max_batch_tokens: int = 512,
        max_seqs: int = 64,
        loaded: Callable[[str], None] = lambda name: None,
    ) -> None:
        self.config = checkpoint.config
        form = model_format or resolve_format(checkpoint)
        self.quantization, self.kv_cache_dtype = form.quantization, form.kv_cache_dtype
        self.layouts = matrix_layouts(self.config, form.dtype, self.quantization)
        self.num_blocks = num_blocks
        self.max_batch_tokens = max_batch_tokens
        self.max_seqs = max_seqs
        self.num_threads = check_threads(num_threads)
        self._decoder = self._make_decoder()
        self._dtypes: dict[str, str] = {}  # of the vectors, as they were stored
        self._load(checkpoint, loaded)
        self.stop_flag = _C.StopFlag()
        self._logits = np.empty((0, self.config.vocab_size), np.float32)

    @property
    def weight_bytes(self) -> int:
        """Bytes of the packed weights."""
        return self._decoder.weight_bytes

    @property
    def bytes_per_step(self) -> int:
        """Bytes of weights that a decode step at batch 1 reads."""
        return self._decoder.bytes_per_step

    def step(self, batch: StepBatch) -> NDArray[np.float32]:
        """Run one step; the rows returned are overwritten by the next one."""
        logits = self._rows_of_logits(len(batch.logit_rows))
        self._run(batch, logits, None)
        return logits

    def sample(
        self,
        batch: StepBatch,
        sampling: RowSampling,
        steps: int = 1,
        stop_tokens: NDArray[np.int32] = NO_TOKENS,
    ) -> KnownTokens:
        """Run up to ``steps`` steps; a token of each row and step. A step during which
        ``stop_flag`` is set, or which chooses one of ``stop_tokens``, is the last."""
        logits = self._rows_of_logits(len(batch.logit_rows))
        return KnownTokens(*self._sample(batch, logits, sampling, steps, stop_tokens, False))

    def sample_more(self, block_tables: NDArray[np.int32], steps: int) -> KnownTokens:
        """Never called: this does not run ahead."""
        raise NotImplementedError

    def step_and_sample(
        self, batch: StepBatch, sampling: RowSampling
    ) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        """Logits (R, V), overwritten by the next step, and a token chosen from each row (R,)."""
        logits = self._rows_of_logits(len(batch.logit_rows))
        tokens, _ = self._sample(batch, logits, sampling, 1, NO_TOKENS, True)
        return logits, tokens[:, 0]

    def hidden_states(self, batch: StepBatch) -> NDArray[np.float32]:
        """Run one step without the head: (R, C), what the last LayerNorm makes of the rows whose
        logits would be computed. The array is the caller's."""
        hidden = np.empty((len(batch.logit_rows), self.config.n_embd), np.float32)
        self._run(batch, None, hidden)
        return hidden

    def copy_blocks(self, pairs: NDArray[np.int32]) -> None:
        """Copy cache blocks, all layers: ``pairs`` (N, 2) holds (source, destination)."""
        self._decoder.copy_blocks(pairs)

    def read_cache(
        self, layer: int, blocks: NDArray[np.int32], length: int
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Keys and values (H, length, D) of ``layer``, of the sequence in ``blocks`` (M,)."""
        return self._decoder.read_cache(layer, blocks, length)

    def _rows_of_logits(self, count: int) -> NDArray[np.float32]:
        if count > len(self._logits):
            self._logits = np.empty((count, self.config.vocab_size), np.float32)
        return self._logits[:count]

    def _sample(
        self,
        batch: StepBatch,
        logits: NDArray[np.float32],
        sampling: RowSampling,
        steps: int,
        stop_tokens: NDArray[np.int32],
        keep_logits: bool,
    ) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
        return self._decoder.sample(
            batch.token_ids,
            batch.query_starts,
            batch.context_lens,
            batch.block_tables,
            batch.logit_rows,
            logits,
            sampling.native(),
            steps,
            stop_tokens,
            self.stop_flag,
            keep_logits,
        )

    def _run(
        self,
        batch: StepBatch,
        logits: NDArray[np.float32] | None,
        hidden: NDArray[np.float32] | None,
    ) -> None:
        self._decoder.step(
            batch.token_ids,
            batch.query_starts,
            batch.context_lens,
            batch.block_tables,
            batch.logit_rows,
            logits,
            hidden,
        )

    def _make_decoder(self) -> _C.Decoder:
        config = self.config
        if config.head_size > _C.MAX_HEAD_SIZE:
            raise UnsupportedError(
                f"heads of {config.head_size} exceed the CPU runner's {_C.MAX_HEAD_SIZE}; "
                "use device='torch'"
            )
        layers = [
            (shape.n_head, shape.n_inner, config.attention_scale(layer))
            for layer, shape in enumerate(config.layer_shapes)
        ]
        try:
            return _C.Decoder(
                vocab=config.vocab_size,
                positions=config.n_positions,
                width=config.n_embd,
                head_size=config.head_size,
                epsilon=config.layer_norm_epsilon,
                activation=config.activation_function,
                tied_head=config.tie_word_embeddings,
                layers=layers,
                formats={
                    name: (layout.format.name, layout.format.group_size)
                    for name, layout in self.layouts.items()
                },
                kv_format=self.kv_cache_dtype,
                num_threads=self.num_threads,
                num_blocks=self.num_blocks,
                max_batch_tokens=self.max_batch_tokens,
            )
        except MemoryError:
            raise OptionError(
                f"no memory for the weights and a cache of {self.num_blocks} blocks of "
                f"{self.block_size} tokens; lower kv_cache_tokens"
            ) from None
        except ValueError as error:  # an instruction set or threads that cannot be had
            raise OptionError(str(error)) from None

    def packed_tensors(self) -> list[NewTensor]:
        """All weights as they are held, for a checkpoint that loads without rounding again."""
        tensors = []
        for name, shape in self.shapes.items():
            layout = self.layouts.get(name)
            if layout is not None and layout.format.is_integer:
                make = partial(self._decoder.packed, name)
                tensors.append(NewTensor(name, PACKED, layout.shape, make))
                continue
            dtype = "F32" if layout is None else FLOAT_TYPES[layout.format.name]
            if ".mlp.act." in name and self._dtypes[name] == "BF16":
                dtype = "BF16"  # arithmetic on them is rounded as well; the type says so
            tensors.append(NewTensor(name, dtype, shape, partial(self._floats, name, dtype)))
        # At the end, where they put no other tensor at an odd address.
        return sorted(tensors, key=lambda tensor: tensor.dtype == "BF16")

    def _floats(self, name: str, dtype: str) -> NDArray[Any]:
        """A tensor as a checkpoint has it, "F32" or "BF16": nothing is rounded."""
        if (layout := self.layouts.get(name)) is None:
            values = self._decoder.vector(name)
        else:
            values = decode_floats(self._decoder.packed(name), layout)
            values = values if name in (EMBEDDING, HEAD) else np.ascontiguousarray(values.T)
        return values if dtype == "F32" else (values.view(np.uint32) >> 16).astype(np.uint16)

    def _load(self, checkpoint: Checkpoint, loaded: Callable[[str], None]) -> None:
        self.shapes = checkpoint.shapes  # of the values, by canonical name
        # Vectors first: LayerNorm is balanced against the integer matrix that follows it.
        for name in sorted(checkpoint.names, key=self.layouts.__contains__):
            tensor = checkpoint.tensor(name)
            try:
                if isinstance(tensor, PackedTensor):
                    tensor.check_scales()
                    self._decoder.load_packed(name, tensor.data)
                else:
                    shape = list(tensor.shape) or [1]
                    self._decoder.load(name, tensor.dtype, shape, tensor.data)
            except CheckpointError:
                raise
            except ValueError as error:
                raise CheckpointError(f"{checkpoint.path}: {error}") from None
            self._dtypes[name] = tensor.dtype
            tensor.release()
            loaded(name)
        if missing := self._decoder.missing():
            raise CheckpointError(f"{checkpoint.path}: missing tensors: {', '.join(missing)}")


def check_threads(num_threads: int | None) -> int:
    """``num_threads``, or the default for this machine. Raises OptionError for others than 1 to
    1024."""
    if num_threads is None:
        return default_num_threads()
    if not hasattr(num_threads, "__index__") or num_threads < 1 or num_threads > 1024:
        raise OptionError(f"num_threads={num_threads!r}: a number from 1 to 1024 is needed")
    return num_threads
