"""Inputs for the Triton kernels, and how far a result may lie from the reference."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from hypothesis import HealthCheck, settings
from torch import Tensor

from gpt2fast.kernels import reference
from gpt2fast.kernels.triton import row_state

BLOCK_TOKENS = 16


def within_bound(got: Tensor, plain: Tensor, exact: Tensor, atol: float) -> None:
    """Fails unless ``got`` is at most twice as far from ``exact`` as torch's own result in the same
    precision, ``plain``, at its worst, plus eight roundings of the largest output and ``atol``."""
    rounding = torch.finfo(plain.dtype).eps
    got, plain, exact = (t.detach().cpu().double() for t in (got, plain, exact))
    assert torch.isfinite(got).all(), "not every output was written, or one is not finite"
    bound = 2.0 * (plain - exact).abs().max() + 8 * rounding * exact.abs().max() + atol
    worst = (got - exact).abs().max()
    assert worst <= bound, f"off by {worst:.3g}, bound {bound:.3g}"


def is_thorough() -> bool:
    """Whether all of the slow cases are asked for (GPT2FAST_THOROUGH=1)."""
    return os.environ.get("GPT2FAST_THOROUGH") == "1"


def examples(count: int) -> settings:
    """So many examples from hypothesis; ten times as many where it ``is_thorough``."""
    if is_thorough():
        count *= 10
    checks = [HealthCheck.function_scoped_fixture]
    return settings(max_examples=count, deadline=None, suppress_health_check=checks)


@contextmanager
def poisoned() -> Iterator[None]:
    """``torch.empty`` gives NaN, so that what is left out or read too early is seen."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def normal(generator: torch.Generator, *shape: int, scale: float = 1.0) -> Tensor:
    return torch.randn(shape, generator=generator) * scale


@dataclass
class PagedCase:
    """Sequences in a paged cache whose blocks lie in no order; what was never written is NaN."""

    qkv: Tensor  # (T, 3 C)
    cache: Tensor  # (blocks, 2, H, BLOCK_TOKENS, D) with the tokens before
    starts: Tensor  # (S + 1,)
    contexts: Tensor  # (S,)
    tables: Tensor  # (S, M)
    keys: list[Tensor]  # (S_i, H, D) of each sequence, new ones included
    values: list[Tensor]
    heads: int

    @property
    def longest(self) -> int:
        return int(self.starts.diff().max())

    @property
    def arguments(self) -> tuple[Tensor, ...]:
        return self.qkv, self.cache, self.starts, self.contexts, self.tables

    def slots(self, sequence: int, length: int) -> tuple[Tensor, Tensor]:
        """Block and slot of the first ``length`` tokens."""
        token = torch.arange(length)
        return self.tables[sequence].cpu().long()[token // BLOCK_TOKENS], token % BLOCK_TOKENS

    def rounding(self, scale: float) -> float:
        """What the rounding of scores in float32 may make of an output: a score's error is a
        fraction of its size, and a weight's is that error."""
        size = self.keys[0].shape[-1]
        q = self.qkv.cpu().float().view(-1, 3, self.heads, size)[:, 0].norm(dim=-1).max()
        k = max(float(key.float().norm(dim=-1).max()) for key in self.keys)
        v = max(float(value.float().abs().max()) for value in self.values)
        return 2e-6 + torch.finfo(torch.float32).eps * float(q) * k * scale * v

    def attended(self, scale: float, dtype: torch.dtype) -> Tensor:
        """The reference's attention (T, C), computed in ``dtype``."""
        parts = []
        size = self.keys[0].shape[-1]
        for s, (key, value) in enumerate(zip(self.keys, self.values, strict=True)):
            rows = slice(int(self.starts[s]), int(self.starts[s + 1]))
            q = self.qkv[rows].cpu().view(-1, 3, self.heads, size)[:, 0]
            q, k, v = (t.to(dtype).transpose(0, 1)[None] for t in (q, key, value))
            parts.append(reference.attention(q, k, v, scale)[0].transpose(0, 1).flatten(1))
        return torch.cat(parts)


def paged_case(
    contexts: list[int],
    counts: list[int],
    heads: int,
    size: int,
    dtype: torch.dtype,
    device: torch.device,
    seed: int,
) -> PagedCase:
    generator = torch.Generator().manual_seed(seed)
    most = max(c + n for c, n in zip(contexts, counts, strict=True))
    width = -(-most // BLOCK_TOKENS)
    order = torch.randperm(width * len(counts) + 2, generator=generator)
    tables = order[: width * len(counts)].view(len(counts), width).int()
    shape = (width * len(counts) + 2, 2, heads, BLOCK_TOKENS, size)
    case = PagedCase(
        qkv=normal(generator, sum(counts), 3 * heads * size, scale=2.0).to(dtype),
        cache=torch.full(shape, torch.nan, dtype=dtype),
        starts=torch.tensor([0, *counts]).cumsum(0).int(),
        contexts=torch.tensor(contexts).int(),
        tables=tables,
        keys=[],
        values=[],
        heads=heads,
    )
    for s, context in enumerate(contexts):
        old = normal(generator, 2, context, heads, size, scale=2.0).to(dtype)
        block, slot = case.slots(s, context)
        for which in (0, 1):
            case.cache[block, which, :, slot] = old[which]
        rows = slice(int(case.starts[s]), int(case.starts[s + 1]))
        new = case.qkv[rows].view(-1, 3, heads, size)
        case.keys.append(torch.cat([old[0], new[:, 1]]))
        case.values.append(torch.cat([old[1], new[:, 2]]))
    for name in ("qkv", "cache", "starts", "contexts", "tables"):
        setattr(case, name, getattr(case, name).to(device))
    return case


_FIELDS = {
    "token": row_state.TOKEN,
    "context": row_state.CONTEXT,
    "written": row_state.WRITTEN,
    "draw": row_state.DRAW,
    "stream": row_state.STREAM,
    "temperature": row_state.TEMPERATURE,
    "top_k": row_state.TOP_K,
    "top_p": row_state.TOP_P,
    "min_p": row_state.MIN_P,
}


def state_field(state: Tensor, name: str) -> Tensor:
    """A field (capacity,) of a ``row_state``."""
    return state[_FIELDS[name].value]


def fill_state(state: Tensor, rows: list[dict[str, float]]) -> None:
    """Fields of the first rows by name, besides ``seed``; floats as their bits, filters off."""
    for index, row in enumerate(rows):
        for name, value in ({"top_p": 1.0, "min_p": 0.0} | row).items():
            if name == "seed":
                for field, word in (
                    (row_state.SEED_LOW, value),
                    (row_state.SEED_HIGH, value >> 32),
                ):
                    signed = np.uint32(word & 0xFFFFFFFF).view(np.int32)
                    state[field.value, index] = int(signed)
                continue
            is_float = name in ("temperature", "top_p", "min_p")
            state_field(state, name)[index] = int(
                np.float32(value).view(np.int32) if is_float else value
            )
