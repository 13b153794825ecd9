"""What the kernel benchmarks share: interleaved timing, the machine's limits, table, JSON rows."""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from gpt2fast import _C
from gpt2fast.bench.limits import arithmetic_peak, machine, read_bandwidth
from gpt2fast.bench.sizes import SIZES
from gpt2fast.host import default_num_threads

COLD_BYTES = 256 << 20  # more than any last-level cache of today's desktops and small servers
_BATCH_SECONDS = 0.01  # of calls timed at a stretch
_SETTLE_SECONDS = 0.003  # after which the threads of whoever ran before no longer spin

Call = Callable[[], object]


class Work(NamedTuple):
    """What one call must do at least."""

    bytes: float  # read and written
    operations: float  # two a multiply-add


@dataclass(frozen=True)
class Row:
    """Seconds of one call, over the rounds, and what they are of the machine's limits."""

    kernel: str
    case: str  # the shape
    format: str
    memory: str  # "cold" or "warm"
    provider: str
    p20: float
    p50: float
    p80: float
    gigabytes_per_second: float
    gigaflops: float
    fraction_of_bandwidth: float
    fraction_of_peak: float


def timed(calls: dict[str, Call], rounds: int) -> dict[str, list[float]]:
    """Seconds a call of each provider in each round; the providers take turns."""
    sizes = {}
    for name, call in calls.items():
        call()
        start = time.perf_counter()
        call()
        sizes[name] = max(1, int(_BATCH_SECONDS / (time.perf_counter() - start)))
    found: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            time.sleep(_SETTLE_SECONDS)
            call()  # wakes the threads
            start = time.perf_counter()
            for _ in range(sizes[name]):
                call()
            found[name].append((time.perf_counter() - start) / sizes[name])
    return found


class Report:
    """Prints rows as they come; keeps them for ``--json``.

    The limits are measured around the calls: those of a shared machine drift.
    """

    def __init__(self, kernel: str, args: argparse.Namespace) -> None:
        self.kernel, self.args, self.rows = kernel, args, list[Row]()
        self._bandwidth: float | None = None
        print(f"{kernel}, {_C.isa()}, {args.threads} threads, medians of {args.rounds} rounds")
        self._line("", "", "", "", "us", "p20-p80", "GB/s", "of limit", "GFLOP/s", "of limit", "")

    @staticmethod
    def _line(*cells: str) -> None:
        widths = (24, 10, 5, 15, 10, 18, 8, 9, 9, 9, 8)
        text = (c.ljust(w) if i < 4 else c.rjust(w)
                for i, (c, w) in enumerate(zip(cells, widths, strict=True)))  # fmt: skip
        print(" ".join(text).rstrip(), flush=True)

    def measure(
        self,
        case: str,
        fmt: str,
        memory: str,
        calls: dict[str, tuple[Call, Work]],
        arithmetic: str,
    ) -> None:
        """Time ``calls``, of which the first is ours, and print a line for each.

        ``arithmetic``: the format whose peak they are held against.
        """
        threads = self.args.threads
        peaks = [arithmetic_peak(arithmetic, threads) or np.nan]
        if memory == "cold" or self._bandwidth is None:
            self._bandwidth = read_bandwidth(threads)
        found = timed({name: call for name, (call, _) in calls.items()}, self.args.rounds)
        peaks.append(arithmetic_peak(arithmetic, threads) or np.nan)
        peak, ours = max(peaks), None
        for name, (_, work) in calls.items():
            p20, p50, p80 = (float(p) for p in np.quantile(found[name], (0.2, 0.5, 0.8)))
            ours = ours or p50
            rate, flops = work.bytes / p50, work.operations / p50
            row = Row(
                self.kernel, case, fmt, memory, name, p20, p50, p80, rate / 1e9, flops / 1e9,
                rate / self._bandwidth, flops / peak,
            )  # fmt: skip
            self.rows.append(row)
            self._line(
                case, fmt, memory, name, f"{p50 * 1e6:.1f}", f"{p20 * 1e6:.1f}-{p80 * 1e6:.1f}",
                f"{row.gigabytes_per_second:.1f}", f"{row.fraction_of_bandwidth:.2f}",
                f"{row.gigaflops:.1f}", f"{row.fraction_of_peak:.2f}",
                "" if name == "gpt2fast" else f"{p50 / ours:.2f}x",
            )  # fmt: skip

    def write(self) -> None:
        """Append the rows to the file of ``--json``."""
        if self.args.json is None:
            return
        names = ("gpt2fast", "torch", "numpy")
        common = {
            "date": time.strftime("%Y-%m-%d"),
            "machine": machine(),
            "versions": {name: metadata.version(name) for name in names},
            "isa": _C.isa(),
            "threads": self.args.threads,
            "rounds": self.args.rounds,
        }
        with self.args.json.open("a") as file:
            for row in self.rows:
                file.write(json.dumps({**common, **asdict(row)}) + "\n")


def parse(
    doc: str, models: Sequence[str] = ("gpt2",), contexts: Sequence[int] = ()
) -> argparse.Namespace:
    """The options that all of the benchmarks have, ``--contexts`` where some are given."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=SIZES, default=models, metavar="MODEL",
                        help=f"of {', '.join(SIZES)}")  # fmt: skip
    if contexts:
        parser.add_argument("--contexts", nargs="+", type=int, default=contexts,
                            help="cached tokens that a decoded one sees beside itself")  # fmt: skip
    parser.add_argument("--rows", nargs="+", type=int, default=[1, 8, 512])
    parser.add_argument("--threads", type=int, default=default_num_threads())
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="append the rows to this file")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.set_grad_enabled(False)
    return args


def normal(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    """Standard normal numbers."""
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def rows_apart(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """``x`` (M, K) with rows an odd number of cache lines apart, as in a decoder's workspace."""
    lines = -(-x.shape[1] // 16) | 1
    memory = np.zeros((len(x), 16 * lines), np.float32)
    memory[:, : x.shape[1]] = x
    return memory[:, : x.shape[1]]


def copies_of(array: NDArray[Any]) -> list[NDArray[Any]]:
    """``array`` so often that each is out of the caches when its turn comes again; each starts on
    a cache line."""
    count = COLD_BYTES // array.nbytes + 1
    stride = (array.nbytes + 63) // 64 * 64
    memory = np.empty(count * stride + 64, np.uint8)
    start = -memory.ctypes.data % 64
    made = []
    for i in range(count):
        at = start + i * stride
        made.append(memory[at : at + array.nbytes].view(array.dtype).reshape(array.shape))
        made[-1][...] = array
    return made


def torch_copies_of(tensor: torch.Tensor) -> list[torch.Tensor]:
    """The same of a tensor."""
    bits = tensor.view({2: torch.int16, 4: torch.int32}[tensor.dtype.itemsize])
    return [torch.from_numpy(copy).view(tensor.dtype) for copy in copies_of(bits.numpy())]


def cycle_calls(function: Callable[..., object], arguments: Iterable[Any]) -> Call:
    """A call of ``function`` with the next of ``arguments``, round and round."""
    following = itertools.cycle(arguments)
    return lambda: function(next(following))


def check(got: NDArray[Any], want: torch.Tensor, tolerance: float, what: str) -> None:
    """Refuse to time what is wrong: the error's norm relative to the result's."""
    expected = want.double().numpy()
    error = float(np.linalg.norm(got - expected) / np.linalg.norm(expected))
    if not error <= tolerance:
        raise SystemExit(f"{what} differs from the reference by {error:.1e}; nothing was timed")
