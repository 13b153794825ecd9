"""Steps that choose their own tokens: the state of the sequences stays on the GPU, and steps of one
token a sequence are replayed from CUDA graphs.

A graph is recorded when its shape is first needed: so many batch slots, so many programs
for the keys, filters or none, so many steps.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gpt2fast.kernels.triton import row_state
from gpt2fast.kernels.triton.head import Choice, head_choose, head_logits
from gpt2fast.kernels.triton.row_state import MOST_STEPS
from gpt2fast.kernels.triton.sample import sample
from gpt2fast.runners.base import RowSampling, StepBatch
from gpt2fast.runners.cuda.forward import Forward, SingleTokens

STEPS_OF_A_GRAPH = (8, 1)  # the steps asked for are made up of these


class Shape(NamedTuple):
    """What tells one recorded graph from another."""

    slots: int
    splits: int
    tile: int
    is_filtered: bool
    steps: int


class Pending:
    """Tokens on their way from the GPU: ``PendingTokens``."""

    times = None

    def __init__(self, history: Tensor, rows: int, steps: int, event: torch.cuda.Event | None):
        self._history, self._rows, self._steps, self._event = history, rows, steps, event

    def wait(self) -> NDArray[np.int32]:
        """(R, steps); -1 where the largest logit was no finite number."""
        if self._event is not None:
            self._event.synchronize()
        tokens: NDArray[np.int32] = self._history[: self._rows, : self._steps].numpy().copy()
        return tokens


class Staging:
    """Memory of the host that the GPU copies from and to while the host goes on.

    There are two of each, taken in turn, so that a call can be prepared while one is under way.
    """

    def __init__(self, choice: Choice, table_width: int, device: torch.device) -> None:
        pinned = device.type == "cuda"
        fields, slots = choice.state.shape

        def pair(*shape: int) -> list[Tensor]:
            both = [torch.zeros(shape, dtype=torch.int32) for _ in range(2)]
            return [each.pin_memory() for each in both] if pinned else both

        self._states, self._tables = pair(fields, slots), pair(slots, table_width)
        self._histories = pair(slots, MOST_STEPS)
        self._events: list[torch.cuda.Event | None] = [None, None]
        self._turn = 0

    def take(self) -> tuple[Tensor, Tensor]:
        """State and tables that no copy under way reads: to be filled."""
        self._turn ^= 1
        event = self._events[self._turn]
        if event is not None and not event.query():  # as a rule it is long since
            event.synchronize()
        return self._states[self._turn], self._tables[self._turn]

    def fetch(self, history: Tensor, rows: int, steps: int) -> Pending:
        """The tokens of the call for which ``take`` was called last, once they are chosen."""
        to = self._histories[self._turn]
        to[:rows].copy_(history[:rows], non_blocking=True)
        event = None
        if history.device.type == "cuda":
            event = torch.cuda.Event()
            event.record()
        self._events[self._turn] = event
        return Pending(to, rows, steps, event)


class Decoder:
    """Chooses tokens after steps of ``forward``, for up to ``max_seqs`` sequences."""

    def __init__(self, forward: Forward, max_seqs: int, block_size: int) -> None:
        self._forward, self.device = forward, forward.device
        sizes = forward.weights.head.sizes
        self.choice = Choice(max_seqs, sizes, forward.dtype, self.device)
        slots, width = self.choice.capacity, -(-forward.config.n_positions // block_size)
        self._tables = torch.zeros(slots, width, dtype=torch.int32, device=self.device)
        self._every = torch.arange(slots, dtype=torch.int32, device=self.device)
        self._staging = Staging(self.choice, width, self.device)
        self._graphs: dict[Shape, torch.cuda.CUDAGraph] = {}
        self._pool = torch.cuda.graph_pool_handle() if self.device.type == "cuda" else None
        # Of the sequences that are being decoded:
        self._sequences, self._longest, self._is_filtered = 0, 0, False

    def choose(self, hidden: Tensor, picked: NDArray[np.int32], sampling: RowSampling) -> Pending:
        """A token for each of the rows ``picked`` (R,) of hidden (T, C)."""
        state, _ = self._staging.take()
        _fill(state, sampling, np.zeros_like(picked), np.zeros_like(picked))
        self.choice.state.copy_(state, non_blocking=True)
        rows = torch.from_numpy(np.ascontiguousarray(picked, np.int32)).to(self.device)
        self._choose(hidden, rows, sampling.is_filtered)
        return self._staging.fetch(self.choice.history, len(picked), 1)

    def start(self, batch: StepBatch, sampling: RowSampling, steps: int) -> Pending:
        """``steps`` tokens of each sequence of ``batch``, which brings one token of each."""
        self._sequences, self._is_filtered = len(batch.token_ids), sampling.is_filtered
        self._longest = int(batch.context_lens.max())
        shapes = self._prepare(steps)
        state, tables = self._staging.take()
        _fill(state, sampling, batch.token_ids, batch.context_lens)
        self.choice.state.copy_(state, non_blocking=True)
        return self._run(shapes, tables, batch.block_tables, steps)

    def go_on(self, block_tables: NDArray[np.int32], steps: int) -> Pending:
        """``steps`` more tokens of the same sequences."""
        shapes = self._prepare(steps)
        _, tables = self._staging.take()
        self.choice.state[row_state.WRITTEN.value].zero_()
        return self._run(shapes, tables, block_tables, steps)

    def warm_up(self) -> None:
        """Compile and record what one sequence needs, however long, without filters."""
        if self.device.type != "cuda":
            return
        self._sequences, self._is_filtered = 1, False
        for context in range(0, self._forward.config.n_positions, 32):
            self._longest = context
            self._prepare(sum(STEPS_OF_A_GRAPH))

    def _prepare(self, steps: int) -> list[Shape]:
        """The graphs that make up ``steps``; those that were never needed are recorded now."""
        slots = 1 << (self._sequences - 1).bit_length()
        share = self._forward.share(slots, self._longest + steps)
        shapes = []
        for each in STEPS_OF_A_GRAPH:
            shape = Shape(slots, *share, self._is_filtered, each)
            shapes += [shape] * (steps // each)
            steps %= each
        if self.device.type == "cuda":
            for shape in set(shapes) - self._graphs.keys():
                self._graphs[shape] = self._record(shape)
        return shapes

    def _run(
        self,
        shapes: list[Shape],
        staged: Tensor,
        block_tables: NDArray[np.int32],
        steps: int,
    ) -> Pending:
        rows, width = len(block_tables), staged.shape[1]
        tables = block_tables[:, :width]
        staged.numpy()[:rows, : tables.shape[1]] = tables
        self._tables[:rows].copy_(staged[:rows], non_blocking=True)
        for shape in shapes:
            if shape in self._graphs:
                self._graphs[shape].replay()
            else:
                self._steps(shape)
        self._longest += steps
        return self._staging.fetch(self.choice.history, rows, steps)

    def _steps(self, shape: Shape) -> None:
        """The kernels of ``shape.steps`` steps."""
        state = self.choice.state
        tokens = state[row_state.TOKEN.value][: shape.slots]
        contexts = state[row_state.CONTEXT.value][: shape.slots]
        tables = self._tables[: shape.slots]
        where = SingleTokens(contexts, tables, shape.splits, shape.tile)
        for _ in range(shape.steps):
            hidden = self._forward.hidden(tokens, contexts, where)
            self._choose(hidden, self._every[: shape.slots], shape.is_filtered)

    def _choose(self, hidden: Tensor, picked: Tensor, is_filtered: bool) -> None:
        head = self._forward.weights.head
        if is_filtered:
            sample(head_logits(hidden, picked, head), self.choice)
        else:
            head_choose(hidden, picked, head, self.choice)

    def _record(self, shape: Shape) -> torch.cuda.CUDAGraph:
        state = self.choice.state
        kept = state.clone()
        # Where no batch slot has a sequence, the run that compiles the kernels touches no cache.
        state[row_state.CONTEXT.value].fill_(-1)
        self._steps(shape._replace(steps=1))
        torch.cuda.synchronize(self.device)
        graph = torch.cuda.CUDAGraph()
        # On this runner's stream: torch's own for recording is one for all devices and threads. Not
        # in inference mode, which the first recording of a process would leave on torch's
        # generator, for others to fail on.
        stream = torch.cuda.current_stream(self.device)
        record = torch.cuda.graph(graph, self._pool, stream, "thread_local")
        with torch.inference_mode(False), torch.no_grad(), record:
            self._steps(shape)
        state.copy_(kept)
        return graph


def _fill(
    state: Tensor,
    sampling: RowSampling,
    tokens: NDArray[np.int32],
    contexts: NDArray[np.int32],
) -> None:
    """The fields of the first R slots; the others have no sequence."""
    fields = state.numpy()
    fields[:] = 0
    fields[row_state.CONTEXT.value] = -1
    rows = len(tokens)
    values = {
        row_state.TOKEN: tokens,
        row_state.CONTEXT: contexts,
        row_state.DRAW: sampling.draw,
        row_state.STREAM: sampling.stream,
        row_state.SEED_LOW: sampling.seed.astype(np.uint32).view(np.int32),
        row_state.SEED_HIGH: (sampling.seed >> np.uint64(32)).astype(np.uint32).view(np.int32),
        row_state.TEMPERATURE: sampling.temperature.astype(np.float32).view(np.int32),
        row_state.TOP_K: sampling.top_k,
        row_state.TOP_P: sampling.top_p.astype(np.float32).view(np.int32),
        row_state.MIN_P: sampling.min_p.astype(np.float32).view(np.int32),
    }
    for field, value in values.items():
        fields[field.value, :rows] = value
