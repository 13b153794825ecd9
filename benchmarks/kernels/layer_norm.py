"""LayerNorm beside torch's and the machine's memory bandwidth.

It is checked against gpt2fast.kernels.reference before it is timed. "cold": rows from memory;
"warm": from whatever cache holds them. Times include the call from Python: most of that of one row.

    python benchmarks/kernels/layer_norm.py [--models gpt2 gpt2-xl] [--rows 1 8 512]
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from common import (
    Report,
    Work,
    check,
    copies_of,
    cycle_calls,
    normal,
    parse,
    torch_copies_of,
)  # fmt: skip

from gpt2fast import _C
from gpt2fast.bench.sizes import SIZES
from gpt2fast.kernels import reference

EPSILON = 1e-5
OPERATIONS = 8  # a value: the mean, the squares of differences, scale, weight and bias


def main() -> None:
    """Check, time, print."""
    args = parse(__doc__, models=list(SIZES))
    kernels = _C.Kernels(args.threads)
    report = Report("layer_norm", args)
    for model in args.models:
        width = SIZES[model][0]
        weight, bias = normal(width, seed=1), normal(width, seed=2)
        theirs = torch.from_numpy(weight), torch.from_numpy(bias)
        mine = partial(kernels.layer_norm, weight=weight, bias=bias, epsilon=EPSILON)
        torchs = partial(
            F.layer_norm, normalized_shape=(width,), weight=theirs[0], bias=theirs[1], eps=EPSILON
        )
        for rows in args.rows:
            x = normal(rows, width)
            given = torch.from_numpy(x)
            want = reference.layer_norm(given, *theirs, EPSILON)
            check(mine(x), want, 1e-6, f"layer_norm {x.shape}")
            work = Work(2 * x.nbytes, OPERATIONS * x.size)
            for memory in ("cold", "warm"):
                ours = copies_of(x) if memory == "cold" else [x]
                others = torch_copies_of(given) if memory == "cold" else [given]
                calls = {
                    "gpt2fast": (cycle_calls(mine, ours), work),
                    "torch float32": (cycle_calls(torchs, others), work),
                }
                report.measure(f"{model} x{rows}", "float32", memory, calls, "float32")
    report.write()


if __name__ == "__main__":
    main()
