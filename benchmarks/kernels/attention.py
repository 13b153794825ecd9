"""Attention over the paged cache of each format, beside torch's scaled_dot_product_attention.

Each is checked against gpt2fast.kernels.reference before it is timed. Decoding: one query for each
of 1 or 8 sequences; prefill: 512 queries of an empty context. "cold": the cache of a layer comes
from memory, as in a model with many layers; "warm": from whatever cache of the CPU holds it. Times
include the call from Python; the keys are stored beforehand.

    python benchmarks/kernels/attention.py [--models gpt2 gpt2-xl] [--contexts 127 999]
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from common import COLD_BYTES, Call, Report, Work, check, cycle_calls, normal, parse

from gpt2fast import _C
from gpt2fast.bench.sizes import SIZES
from gpt2fast.kernels import reference

FORMATS = ("float32", "bfloat16", "int8")
ELEMENT_BYTES = {"float32": 4, "bfloat16": 2, "int8": 1}
# 8-bit: a weight of the softmax near the middle between two integers may fall to either.
TOLERANCES = {"float32": 2e-5, "bfloat16": 2e-5, "int8": 2e-3}


class Layer:
    """One layer's cache in one format, so often that the copies do not fit into the CPU's caches.

    ``batch`` sequences of ``context`` cached and ``new`` new tokens.
    """

    def __init__(
        self, kernels: _C.Kernels, fmt: str, shape: tuple[int, int, int, int, int], copies: int
    ) -> None:
        batch, context, new, heads, size = shape
        self.kernels, self.fmt, self.new, self.scale = kernels, fmt, new, size**-0.5
        total = context + new
        self.queries = normal(batch, new, heads, size)
        self.keys, self.values = (normal(batch, total, heads, size, seed=s) for s in (1, 2))
        width = -(-total // _C.BLOCK_TOKENS)
        self.storage = _C.KvStorage(fmt, heads, size, copies * batch * width)
        order = np.random.default_rng(0).permutation(copies * batch * width)
        self.tables = np.ascontiguousarray(order.reshape(copies, batch, width), np.int32)
        self.lengths = np.full(batch, context, np.int32)
        for tables in self.tables:
            for table, keys, values in zip(tables, self.keys, self.values, strict=True):
                kernels.append(self.storage, table, 0, keys, values)
        self.dtype = torch.bfloat16 if fmt == "bfloat16" else torch.float32
        # (B, H, T, D), each head's keys side by side.
        self.theirs = [
            torch.from_numpy(a).to(self.dtype).transpose(1, 2).contiguous()
            for a in (self.queries, self.keys, self.values)
        ]

    def run(self, tables: Any) -> Any:
        return self.kernels.attend(self.storage, tables, self.lengths, self.queries, self.scale)

    def verify(self) -> None:
        q, k, v = (
            torch.from_numpy(a).transpose(1, 2) for a in (self.queries, self.keys, self.values)
        )
        want = reference.cached_attention(q, k, v, self.scale, self.fmt).transpose(1, 2)
        check(self.run(self.tables[-1]), want, TOLERANCES[self.fmt], f"{self.fmt} attention")

    def torch_call(self, kv: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        causal = self.new > 1
        return F.scaled_dot_product_attention(self.theirs[0], *kv, is_causal=causal)

    def work(self, element: int, scales: int) -> Work:
        batch, total, heads, size = self.keys.shape
        stored = batch * total * heads * 2 * (size * element + scales)
        seen = total - (self.new - 1) / 2  # by a query, on average
        return Work(
            stored + 2 * self.queries.nbytes,
            4.0 * batch * self.new * seen * heads * size,
        )

    def calls(self, memory: str) -> dict[str, tuple[Call, Work]]:
        _, k, v = self.theirs
        copies = len(self.tables) if memory == "cold" else 1
        others = [(k, v), *((k.clone(), v.clone()) for _ in range(copies - 1))]
        element = ELEMENT_BYTES[self.fmt]
        return {
            "gpt2fast": (
                cycle_calls(self.run, list(self.tables[:copies])),
                self.work(element, 4 if self.fmt == "int8" else 0),
            ),
            f"torch {str(self.dtype).split('.')[1]}": (
                cycle_calls(self.torch_call, others),
                self.work(self.dtype.itemsize, 0),
            ),
        }


def copies_needed(fmt: str, shape: tuple[int, int, int, int, int]) -> int:
    """Of a layer's cache, to be more than COLD_BYTES; 1 for a prompt, which does not wait for
    memory."""
    batch, context, new, heads, size = shape
    if new > 1:
        return 1
    return COLD_BYTES // (batch * (context + new) * heads * size * 2 * ELEMENT_BYTES[fmt]) + 1


def main() -> None:
    """Check, time, print."""
    args = parse(__doc__, contexts=[127, 999])
    kernels = _C.Kernels(args.threads)
    report = Report("attention", args)
    for model in args.models:
        width, _, heads = SIZES[model]
        cases = [(rows, c, 1) for rows in args.rows if rows <= 64 for c in args.contexts]
        cases += [(1, 0, rows) for rows in args.rows if rows > 64]
        for batch, context, new in cases:
            shape = (batch, context, new, heads, width // heads)
            for fmt in FORMATS:
                layer = Layer(kernels, fmt, shape, copies_needed(fmt, shape))
                layer.verify()
                case = f"{model} {batch}x{new} of {context + new}"
                for memory in ("cold", "warm") if new == 1 else ("warm",):
                    arithmetic = "int8" if fmt == "int8" else "float32"
                    report.measure(case, fmt, memory, layer.calls(memory), arithmetic)
    report.write()


if __name__ == "__main__":
    main()
