"""Cases of the kernel benchmarks: checked against a reference, then timed beside their rivals."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from gpt2fast.bench.request_loop import open_replies, send
from gpu import rows, timing

OURS = "gpt2fast"

Results = Tensor | tuple[Tensor, ...]
Function = Callable[[Any], Any]  # of one set of inputs; to Results where it is checked
Emit = Callable[[rows.Row], None]


@dataclass(frozen=True)
class Case:
    """One call at one shape.

    Attributes:
        case, at: its line of the table, and where in the line it stands.
        make: a fresh set of inputs on the GPU.
        calls: what is timed, by name; the names of our own begin with "gpt2fast". All give what
            ``reference`` gives.
        reference: the results in float32 or float64.
        tolerance: the largest error of a value, as a fraction of its magnitude and the result's
            root mean square together.
        bytes, flops: what a call must move and compute at least.
        rotating: bytes of a set of inputs; 0 where one set stays in the caches in use, too.
        yardsticks: also timed, not checked: a plain copy of the same bytes, for example.
        shaped: of a call, by name: calls it and gives its result as ``reference`` gives it.
    """

    case: str
    at: str
    make: Callable[[], Any]
    calls: Mapping[str, Function]
    reference: Function
    tolerance: float
    bytes: float
    flops: float = 0.0
    rotating: float = 0.0
    yardsticks: Mapping[str, Function] = field(default_factory=dict)
    shaped: Mapping[str, Callable[[Function, Any], Any]] = field(default_factory=dict)


@contextmanager
def poisoned() -> Iterator[None]:
    """``torch.empty`` gives NaN, so that what is left out or read too early is seen."""
    torch.utils.deterministic.fill_uninitialized_memory = True  # type: ignore[attr-defined]
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def error_of(got: Results, want: Results) -> float:
    """The largest difference over the magnitude and the root mean square, together, of what was
    wanted; NaN is infinite."""
    gots = got if isinstance(got, tuple) else (got,)
    wants = want if isinstance(want, tuple) else (want,)
    worst = 0.0
    for mine, exact in zip(gots, wants, strict=True):
        if mine.shape != exact.shape:
            raise ValueError(f"shape {tuple(mine.shape)}, not {tuple(exact.shape)}")
        scale = exact.abs() + exact.square().mean().sqrt().clamp_min(1e-30)
        error = float(((mine.to(exact.dtype) - exact).abs() / scale).max())
        worst = max(worst, error if error == error else float("inf"))
    return worst


def verify(case: Case, emit: Emit, only_ours: bool = False) -> tuple[dict[str, Function], float]:
    """The calls that give what the reference gives on fresh inputs, and the largest error of ours
    as a fraction of the tolerance; a row for each of the others."""
    inputs = case.make()
    want, good, worst = case.reference(inputs), {}, 0.0
    for name, call in case.calls.items():
        if only_ours and not name.startswith(OURS):
            continue
        report = partial(rows.make_row, case.case, case.at, name)
        try:
            # Rivals are left alone: torch refuses cuDNN's attention in this mode.
            with poisoned() if name.startswith(OURS) else nullcontext():
                shape = case.shaped.get(name)
                got = call(inputs) if shape is None else shape(call, inputs)
                error = error_of(got, want) / case.tolerance
            if name.startswith(OURS):
                worst = max(worst, error)
            if error <= 1:
                good[name] = call
            else:
                message = f"differs from the reference by {error:.1f} times the tolerance"
                emit(report(status=rows.WRONG, message=message))
        except Exception as failure:
            emit(report(status=rows.ERROR, message=rows.describe(failure)))
    return good, worst


def time_case(case: Case, emit: Emit) -> None:
    """Check, then a row for each call."""
    calls, _ = verify(case, emit)
    if not any(name.startswith(OURS) for name in calls):
        return
    functions = calls | dict(case.yardsticks)
    sets = [case.make() for _ in range(timing.sets_for_cold(case.rotating) if case.rotating else 1)]
    bound = {name: [partial(call, each) for each in sets] for name, call in functions.items()}
    figures, errors = timing.measure(bound)
    for name, error in errors.items():
        message = rows.describe(error)
        emit(rows.make_row(case.case, case.at, name, status=rows.ERROR, message=message))
    for row in _figure_rows(case, figures, len(sets)):
        emit(row)


def _figure_rows(case: Case, figures: Mapping[str, timing.Figure], sets: int) -> Iterator[rows.Row]:
    """``speed_ratio``: of ours to the fastest rival's, of the others to the fastest of ours."""
    ours = [f.p50 for name, f in figures.items() if name.startswith(OURS)]
    rivals = [
        f.p50 for name, f in figures.items() if name in case.calls and not name.startswith(OURS)
    ]
    for name, figure in figures.items():
        others = rivals if name.startswith(OURS) else ours
        ratio = min(others) / figure.p50 if others else None
        beside = {other: figures[other].p50 / figure.p50 for other in case.yardsticks
                  if other in figures and other != name}  # fmt: skip
        text = f"{figure.p50 * 1e6:.1f}us"
        if case.flops:
            text += f" {case.flops / figure.p50 / 1e12:.0f}TF"
        elif case.bytes > 1e6:
            text += f" {case.bytes / figure.p50 / 1e9:.0f}GB/s"
        if "copy" in beside:
            text += f" {beside['copy']:.2f} of copy"
        if ratio is not None and name.startswith(OURS):
            text += f" {ratio:.2f}x"
        yield rows.make_row(
            case.case, case.at, name, text,
            p20=figure.p20, p50=figure.p50, p80=figure.p80, again=figure.again, by=figure.by,
            bytes_per_second=case.bytes / figure.p50,
            operations_per_second=case.flops / figure.p50,
            bytes=case.bytes, flops=case.flops, speed_ratio=ratio, of_yardstick=beside, sets=sets,
            memory="cold" if case.rotating else "warm",
        )  # fmt: skip


def main(cases: Callable[[torch.device], Iterable[Case]], doc: str) -> int:
    """The command line of a file of cases. Returns 1 where a result is wrong and no row is sent."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--match", default="", help="only cases with this in their name")
    parser.add_argument("--first", type=int, metavar="N", help="only the first N of them")
    parser.add_argument("--verify", action="store_true", help="check, do not time")
    parser.add_argument("--ours", action="store_true", help="check no rivals")
    parser.add_argument("--shard", default="0/1", metavar="I/N", help="every Nth case from the Ith")
    parser.add_argument("--seconds", type=float, default=600.0, help="begin no case after these")
    parser.add_argument("--json", action="store_true", help="an object a line, no table")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        parser.exit(2, f"PyTorch {torch.__version__} finds no NVIDIA GPU\n")
    found: list[rows.Row] = []
    emit: Emit = found.append
    if args.json:
        replies = open_replies()

        def emit(row: rows.Row) -> None:
            send(replies, {"row": row})

    try:
        _run(cases(torch.device("cuda")), args, emit)
    except Exception as error:  # outside of all cases
        emit(rows.make_row("all cases", "", OURS, status=rows.ERROR, message=rows.describe(error)))
    if not args.json:
        print(rows.table({"kernels": found}))
        return int(any(row["status"] == rows.WRONG for row in found))
    return 0  # what is wrong has its row


def _run(cases: Iterable[Case], args: argparse.Namespace, emit: Emit) -> None:
    end = time.monotonic() + args.seconds
    timing.prepare(clocks=not args.verify)
    index, count = (int(part) for part in args.shard.split("/"))
    chosen = (case for case in cases if args.match in f"{case.case} {case.at}")
    checked, largest = 0, 0.0
    for case in islice(islice(chosen, args.first), index, None, count):
        if time.monotonic() > end:
            emit(rows.skipped(case.case, 0, 1, case.at, OURS))
            continue
        try:
            if args.verify:
                largest = max(largest, verify(case, emit, args.ours)[1])
                checked += 1
            else:
                time_case(case, emit)
        except Exception as error:
            message = rows.describe(error)
            emit(rows.make_row(case.case, case.at, OURS, status=rows.ERROR, message=message))
    if args.verify:
        text = f"{checked} checked, worst {largest:.2f} of tolerance"
        emit(rows.make_row("references", args.shard, "", text, checked=checked, worst=largest))
