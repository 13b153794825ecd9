"""Products with packed weights of each format, beside torch's linear and the machine's limits.

Each is checked against gpt2fast.kernels.reference before it is timed. "cold": the weights come from
memory, as in decoding; "warm": from whatever cache holds them. Times include the call from Python.

    python benchmarks/kernels/matmul.py [--models gpt2 gpt2-xl] [--rows 1 8 512] [--json FILE]
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from common import (
    Call,
    Report,
    Work,
    check,
    copies_of,
    cycle_calls,
    normal,
    parse,
    rows_apart,
    torch_copies_of,
)

from gpt2fast import _C
from gpt2fast.bench.sizes import SIZES
from gpt2fast.kernels import reference

FORMATS = [("float32", 0), ("bfloat16", 0), ("int8", 64), ("int4", 64), ("int3", 64)]
VOCABULARY = 50257
# Of a product whose integers and scales are those of the reference, only the summation differs.
TOLERANCE = 1e-5
CHECKED_OUTPUTS = 1000  # of the head: the float64 product of all takes longer than the timing


def matrices(width: int) -> dict[str, tuple[int, int]]:
    """(N, K) of the products of a block, and of the head."""
    return {
        "attn.c_attn": (3 * width, width),
        "attn.c_proj": (width, width),
        "mlp.c_fc": (4 * width, width),
        "mlp.c_proj": (width, 4 * width),
        "head": (VOCABULARY, width),
    }


class Product:
    """One matrix in one format: ours and torch's, warm and cold."""

    def __init__(self, kernels: _C.Kernels, weight: Any, form: tuple[str, int]) -> None:
        self.kernels, self.weight, self.form = kernels, weight, form
        self.outputs, self.inputs = weight.shape
        self.packed = kernels.pack_matrix(weight, *form)
        self.dtype = torch.bfloat16 if form[0] == "bfloat16" else torch.float32
        self.theirs = torch.from_numpy(weight).to(self.dtype)
        self.cold: tuple[list[Any], list[Any]] | None = None

    def run(self, x: Any, packed: Any) -> Any:
        return self.kernels.matmul(x, packed, *self.form, self.outputs)

    def verify(self, x: Any) -> None:
        some = self.weight[:CHECKED_OUTPUTS]
        want = reference.matmul(torch.from_numpy(x), torch.from_numpy(some), *self.form)
        got = self.run(x, self.packed)[:, : len(some)]
        check(got, want, TOLERANCE, f"{self.form[0]} {self.outputs} x {self.inputs}")

    def calls(self, x: Any, memory: str) -> dict[str, tuple[Call, Work]]:
        rows = len(x)
        mine, theirs = [self.packed], [self.theirs]
        if memory == "cold":
            if self.cold is None:
                self.cold = copies_of(self.packed), torch_copies_of(self.theirs)
            mine, theirs = self.cold
        given = torch.from_numpy(x).to(self.dtype)
        around = x.nbytes + 4 * rows * self.outputs
        operations = 2.0 * rows * self.inputs * self.outputs
        return {
            "gpt2fast": (
                cycle_calls(partial(self.run, rows_apart(x)), mine),
                Work(self.packed.nbytes + around, operations),
            ),
            f"torch {str(self.dtype).split('.')[1]}": (
                cycle_calls(partial(F.linear, given), theirs),
                Work(self.theirs.nbytes + around, operations),
            ),
        }


def main() -> None:
    """Check, time, print."""
    args = parse(__doc__)
    kernels = _C.Kernels(args.threads)
    report = Report("matmul", args)
    for model in args.models:
        for name, shape in matrices(SIZES[model][0]).items():
            weight = normal(*shape)
            for form in FORMATS:
                product = Product(kernels, weight, form)
                for rows in args.rows:
                    # Rows beyond a few do not wait for memory; a prompt needs one row of the head.
                    if name == "head" and rows > 64:
                        continue
                    x = normal(rows, product.inputs, seed=1)
                    product.verify(x)
                    for memory in ("cold", "warm") if rows <= 64 else ("warm",):
                        case = f"{model} {name} x{rows}"
                        report.measure(case, form[0], memory, product.calls(x, memory), form[0])
    report.write()


if __name__ == "__main__":
    main()
