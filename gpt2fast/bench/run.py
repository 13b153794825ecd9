"""The measurement: rounds over all cases in rotated order, each beside the machine's limits."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gpt2fast.bench.grid import Case, Variant
from gpt2fast.bench.limits import arithmetic_peak, available_memory, read_bandwidth
from gpt2fast.bench.options import Plan
from gpt2fast.bench.pool import Pool, Starts, WorkerKey, prompts, worker_key
from gpt2fast.bench.probe import Probe, Prober
from gpt2fast.bench.process import WorkerError
from gpt2fast.bench.progress import Progress
from gpt2fast.bench.sizes import random_checkpoint

# Of the memory that is free at the start; the rest is for caches of the system and for surprises.
_BUDGET_SHARE = 0.8
_UNKNOWN_BUDGET = 8e9


@dataclass(frozen=True)
class Sample:
    """One run of one case. ``times`` are seconds from the start to the tokens of each step."""

    round: int
    times: tuple[float, ...]
    bandwidth: float  # bytes/s, mean of before and after
    peak_memory: int
    was_idle_after: bool


@dataclass
class Measured:
    """Everything that was learned; an interrupted run holds what was complete by then."""

    probes: dict[Variant, Probe] = field(default_factory=dict)
    samples: dict[Case, list[Sample]] = field(default_factory=dict)
    failures: dict[Case, tuple[str, str]] = field(default_factory=dict)
    starts: dict[WorkerKey, Starts] = field(default_factory=dict)
    peaks: dict[tuple[str, int], list[float]] = field(default_factory=dict)  # format, threads
    interrupted: bool = False
    seconds: float = 0.0


def measure(plan: Plan, progress: Progress) -> Measured:
    """Run the whole plan. Ctrl-C ends it early and keeps what was measured."""
    measured = Measured()
    begin = time.perf_counter()
    try:
        with progress:
            _probe(plan, measured, progress.say)
            blocks = split(_runnable(plan, measured), _budget())
            progress.expect(sum(map(len, blocks)) * plan.options.rounds)
            for block in blocks:
                _run_block(plan, block, measured, progress)
    except KeyboardInterrupt:
        measured.interrupted = True
    measured.seconds = time.perf_counter() - begin
    return measured


def _probe(plan: Plan, measured: Measured, say: Callable[[str], None]) -> None:
    for size in plan.options.random:
        say(f"{size}: writing random weights, unless they are there")
        random_checkpoint(size, plan.work)
    threads = max(case.threads for case in plan.cases)
    prober = Prober(plan.work, threads, plan.options.timeout, plan.texts, say)
    for case in plan.cases:
        if case.variant not in measured.probes:
            measured.probes |= prober.probe_all([case.variant])


def _runnable(plan: Plan, measured: Measured) -> list[Case]:
    return [case for case in plan.cases if measured.probes[case.variant].status == "ok"]


def _budget() -> float:
    free = available_memory()
    return _BUDGET_SHARE * free if free else _UNKNOWN_BUDGET


def split(cases: Sequence[Case], budget: float) -> list[list[Case]]:
    """Blocks of cases that are interleaved: all of them if their models fit in memory together,
    else those of one model, else those of one point of the grid, whose ratios matter most."""
    if _memory(cases) <= budget:
        return [list(cases)] if cases else []
    by_model = _group(cases, lambda case: case.variant.model.label)
    blocks = []
    for block in by_model:
        blocks += [block] if _memory(block) <= budget else _group(block, lambda case: case.point)
    return blocks


def _memory(cases: Sequence[Case]) -> float:
    return sum(key.memory for key in {worker_key(case) for case in cases})


def _group(cases: Sequence[Case], key: Callable[[Case], Any]) -> list[list[Case]]:
    groups: dict[Any, list[Case]] = {}
    for case in cases:
        groups.setdefault(key(case), []).append(case)
    return list(groups.values())


def _run_block(plan: Plan, block: list[Case], measured: Measured, progress: Progress) -> None:
    artifacts: dict[Variant, Path] = {}
    for case in block:
        artifact = measured.probes[case.variant].artifact
        assert artifact is not None
        artifacts[case.variant] = artifact
    options = plan.options
    pool = Pool(block, artifacts, plan.work, options.timeout, options.starts, _budget())
    bandwidths = _Bandwidths()
    try:
        for number in range(options.rounds):
            _measure_peaks(block, measured)
            for case in _rotated(block, number):
                if case not in measured.failures:
                    if not pool.is_ready(case):
                        progress.say(f"starting {case}")
                    with _failures_kept(case, measured, pool):
                        sample = _sample(case, number, pool, bandwidths)
                        measured.samples.setdefault(case, []).append(sample)
                        progress.sampled(case, number, sample.times)
                progress.step()
    finally:
        measured.starts |= pool.starts
        pool.close()


def _rotated(block: list[Case], number: int) -> list[Case]:
    """Every case follows another one in each round, and none always comes first."""
    first = number % len(block)
    return block[first:] + block[:first]


@contextlib.contextmanager
def _failures_kept(case: Case, measured: Measured, pool: Pool) -> Iterator[None]:
    try:
        yield
    except WorkerError as error:
        measured.failures[case] = (error.kind, error.reason)
        pool.drop(case)


def _sample(case: Case, number: int, pool: Pool, bandwidths: _Bandwidths) -> Sample:
    session = pool.acquire(case)
    session.settle()
    before = bandwidths.before(case.threads)
    answer = session.ask("generate", prompts=prompts(case), new_tokens=case.new_tokens)
    idle = session.settle()
    after = bandwidths.measure(case.threads)
    return Sample(
        round=number,
        times=tuple(answer["times"]),
        bandwidth=(before + after) / 2,
        peak_memory=answer["peak_memory"],
        was_idle_after=idle,
    )


@dataclass
class _Bandwidths:
    """The bandwidth of a shared machine drifts: each run is held against its own moment."""

    _last: tuple[int, float, float] = (0, 0.0, 0.0)  # threads, when, bytes/s

    def measure(self, threads: int) -> float:
        value = read_bandwidth(threads)
        self._last = (threads, time.perf_counter(), value)
        return value

    def before(self, threads: int) -> float:
        """The one measured after the run before this one, unless it is old by now."""
        last_threads, when, value = self._last
        if last_threads == threads and time.perf_counter() - when < 1.0:
            return value
        return self.measure(threads)


def _measure_peaks(block: list[Case], measured: Measured) -> None:
    wanted = {(case.variant.format, case.threads) for case in block}
    # That of attention, whatever the weights are stored in.
    wanted |= {("float32", threads) for _, threads in wanted}
    wanted |= {("int8", case.threads) for case in block if case.variant.kv_cache_dtype == "int8"}
    for fmt, threads in sorted(wanted):
        peak = arithmetic_peak(fmt, threads)
        if peak is not None:
            measured.peaks.setdefault((fmt, threads), []).append(peak)


def options_record(plan: Plan) -> dict[str, Any]:
    """The options as they were given, for the record."""
    return dataclasses.asdict(plan.options)
