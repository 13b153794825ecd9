"""One command on a machine with an NVIDIA GPU: checks, the machine's limits, kernels, models.

    python benchmarks/gpu_suite.py [--only limits kernels] [--sizes gpt2 gpt2-xl] [--minutes 9]

Rows go to gpu_<part>.json as they come; a table of all of them is printed last. What there was no
time for is listed by name. Exit codes: 0 done, 1 a check failed, 2 bad options or no NVIDIA GPU.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from gpu import checks, kernels, models, rows
from gpu.fleet import Fleet
from gpu.process import ROOT, WorkerError, stream

PARTS = {"check": 0.3, "limits": 0.07, "kernels": 0.28, "models": 0.35}  # shares of the time
ORDER = ("kernels", "limits", "check", "models")  # of the table
SIZES = ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl")
_READY_SHARE = 0.4  # of the time by which the models have to be loaded and compiled
_LAST_SECONDS = 8.0
_GRACE_SECONDS = 15.0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the parts that are asked for."""
    args = parse(argv)
    problem = what_is_missing()
    if problem:
        print(f"gpu_suite: {problem}", file=sys.stderr)
        return 2
    # Ended from outside, it still ends the processes that it started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    suite = Suite(args, rows.header(["python", "benchmarks/gpu_suite.py", *sys.argv[1:]]))
    has_broken = False
    try:
        suite.run()
    except Exception:  # the rows that are there are worth a table all the same
        traceback.print_exc()
        has_broken = True
    finally:
        suite.fleet.close()
    # The longest part first: of a table that is too long, the beginning is left out.
    found = {part: suite.recorders[part].rows for part in ORDER if part in suite.recorders}
    print(f"\n{describe(suite.header)}\n{rows.table(found)}", flush=True)
    return int(has_broken or rows.has_failed(row for each in found.values() for row in each))


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The options; a bad one ends with code 2."""
    doc = __doc__ or ""
    parser = argparse.ArgumentParser(prog="gpu_suite", description=doc.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART",
                        help=f"of {', '.join(PARTS)}")  # fmt: skip
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=["gpt2", "gpt2-xl"],
                        metavar="SIZE", help=f"of {', '.join(SIZES)}")  # fmt: skip
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results", metavar="DIR")
    parser.add_argument("--minutes", type=float, default=9.0, help="that all of it may take")
    args = parser.parse_args(argv)
    if not 0 < args.minutes <= 24 * 60:
        parser.error(f"--minutes {args.minutes} is not a time; give more than 0")
    try:
        args.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(f"--out {args.out} cannot be made: {error.strerror}")
    args.sizes = list(dict.fromkeys(args.sizes))
    return args


def what_is_missing() -> str | None:
    """Why the suite cannot run here, in one line."""
    try:
        import torch
        import triton  # noqa: F401
    except ImportError as error:
        return f"it needs torch and triton: {error}"
    if not torch.cuda.is_available() or torch.version.cuda is None:
        return (
            f"PyTorch {torch.__version__} finds no NVIDIA GPU; run it on a machine that has one, "
            "with a driver and a torch built for CUDA"
        )
    return None


class Suite:
    """The parts in their order, within the time."""

    def __init__(self, args: argparse.Namespace, header: dict[str, Any]) -> None:
        self.args, self.header = args, header
        self.parts = [part for part in PARTS if part in args.only]
        self.started, self.seconds = time.monotonic(), args.minutes * 60
        self.recorders: dict[str, rows.Recorder] = {}
        self.fleet = Fleet(args.sizes)

    def run(self) -> None:
        """Models load while the tests run; nothing is timed before both are done."""
        first = self._begin(self.parts[0])
        if "models" in self.parts:
            self.fleet.start()
        first.case("build", 0, lambda: checks.build(first), "check")
        self.fleet.built.set()
        if "check" in self.parts:
            self._guard("check", lambda: checks.run(first))
        if "models" in self.parts:
            ready = self.started + _READY_SHARE * self.seconds
            self.fleet.wait(ready - time.monotonic())
        runs: dict[str, Callable[[], None]] = {
            "limits": lambda: limits(self.recorders["limits"]),
            "kernels": lambda: kernels.run(self.recorders["kernels"]),
            "models": lambda: models.run(self.recorders["models"], self.fleet),
        }
        for part in self.parts:
            if part != "check":
                recorder = self._begin(part)
                recorder.end = time.monotonic() + self._share(part)
                self._guard(part, runs[part])

    def _begin(self, part: str) -> rows.Recorder:
        if part not in self.recorders:
            recorder = rows.Recorder(part, self.args.out, self.header, self._share(part))
            self.recorders[part] = recorder
        return self.recorders[part]

    def _share(self, part: str) -> float:
        """Seconds for a part: its share of what is left among those that are still to come."""
        left: float = self.started + self.seconds - _LAST_SECONDS - time.monotonic()
        rest = sum(PARTS[each] for each in self.parts[self.parts.index(part) :])
        return max(left, 0.0) * PARTS[part] / rest

    def _guard(self, part: str, run: Callable[[], None]) -> None:
        recorder = self.recorders[part]
        recorder.case(part, 1, run, "check" if part == "check" else "gpt2fast")


def limits(recorder: rows.Recorder) -> None:
    """The limits, measured in a process that may die of them."""
    seconds = max(recorder.left() - _GRACE_SECONDS, 5.0)
    command = ["-m", "gpu.limits", "--seconds", f"{seconds:.1f}"]
    try:
        stream(command, recorder.left(), lambda found: recorder.add(found["row"]))
    except WorkerError as error:
        recorder.add(rows.make_row("limits", status=rows.ERROR, message=str(error)))


def describe(header: dict[str, Any]) -> str:
    """The machine in a line."""
    versions = ", ".join(f"{name} {version}" for name, version in header["versions"].items())
    return (
        f"{header['device']}, driver {header['driver']}, CUDA {header['cuda']}, Python "
        f"{header['python']}, {versions}, {header['date']}"
    )


if __name__ == "__main__":
    raise SystemExit(main())
