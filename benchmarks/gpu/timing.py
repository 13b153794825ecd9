"""Times of kernels on the GPU: medians over replays of CUDA graphs, taken twice."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch

Call = Callable[[], object]

_SAMPLE_SECONDS = 0.0005  # of one sample at least: a graph begins some microseconds late
_PASS_SECONDS = 0.02
_LEAST_SAMPLES, _MOST_SAMPLES = 7, 60
# Calls in a graph, and the seconds beyond which there need not be the most of them.
_LEAST_CALLS, _MOST_CALLS, _GRAPH_SECONDS = 10, 50, 0.005
_CACHES = 3  # as many times the second-level cache does a rotation read
_MOST_SETS = 512


@dataclass(frozen=True)
class Figure:
    """Seconds of one call over all samples.

    Attributes:
        again: median of the second pass over that of the first, everything else between them.
        by: "graph", or "events" where the calls cannot be captured.
    """

    p20: float
    p50: float
    p80: float
    again: float
    by: str


def prepare(clocks: bool = True) -> None:
    """Once a process: no gradients, no collector in the middle, clocks up."""
    torch.set_grad_enabled(False)
    gc.collect()
    gc.freeze()
    if not clocks:
        return
    x = torch.randn(4096, 4096, device="cuda", dtype=torch.float16)
    for _ in range(300):
        torch.mm(x, x)
    torch.cuda.synchronize()


def sets_for_cold(rotating: float) -> int:
    """Sets of inputs of so many bytes each that push one another out of the second-level cache."""
    cache = getattr(torch.cuda.get_device_properties(0), "L2_cache_size", 0) or (64 << 20)
    return min(max(2, math.ceil(_CACHES * cache / max(rotating, 1.0))), _MOST_SETS)


def measure(
    calls: Mapping[str, Sequence[Call]], seconds: float = _PASS_SECONDS
) -> tuple[dict[str, Figure], dict[str, Exception]]:
    """Each name's calls in rotation, a call for each set of inputs; the names take turns.

    Returns the figures, and the errors of those that did not run. ``seconds``: of each pass.
    """
    stretches: dict[str, Stretch] = {}
    errors: dict[str, Exception] = {}
    for name, each in calls.items():
        try:
            stretches[name] = Stretch(each)
        except Exception as error:  # noqa: PERF203
            errors[name] = error
    passes = [{name: s.samples(seconds) for name, s in stretches.items()} for _ in range(2)]
    figures = {}
    for name, stretch in stretches.items():
        first, second = (each[name] for each in passes)
        p20, p50, p80 = (float(p) for p in np.quantile(first + second, (0.2, 0.5, 0.8)))
        again = float(np.median(second) / np.median(first))
        figures[name] = Figure(p20, p50, p80, again, stretch.by)
    return figures, errors


class Stretch:
    """Calls that are repeated as one: a CUDA graph, where they can be captured."""

    def __init__(self, calls: Sequence[Call]) -> None:
        seconds = self._warm(calls)
        wanted = min(max(math.ceil(_GRAPH_SECONDS / seconds), _LEAST_CALLS), _MOST_CALLS)
        self._order = list(calls) * math.ceil(wanted / len(calls))
        self.by, self._repeat = "events", self._loop
        graph = self._captured()
        if graph is not None:
            self.by, self._repeat = "graph", graph.replay
            self._graph = graph
        self._repeat()
        (once,) = self._timed(1, 1)
        self._repeats = max(1, math.ceil(_SAMPLE_SECONDS / max(once * len(self._order), 1e-6)))
        self._once = once * len(self._order) * self._repeats

    def samples(self, seconds: float) -> list[float]:
        """Seconds of one call, again and again for about ``seconds``."""
        count = min(max(int(seconds / self._once), _LEAST_SAMPLES), _MOST_SAMPLES)
        return self._timed(count, self._repeats)

    def _timed(self, count: int, repeats: int) -> list[float]:
        events = [torch.cuda.Event(enable_timing=True) for _ in range(count + 1)]
        # The GPU is busy while the next stretch is submitted, so that no sample has a gap in it.
        self._repeat()
        events[0].record()
        for event in events[1:]:
            for _ in range(repeats):
                self._repeat()
            event.record()
        torch.cuda.synchronize()
        calls = repeats * len(self._order)
        return [a.elapsed_time(b) / 1e3 / calls for a, b in pairwise(events)]

    def _loop(self) -> None:
        for call in self._order:
            call()

    @staticmethod
    def _warm(calls: Sequence[Call]) -> float:
        """Seconds of a call on a side stream, as capturing wants it; everything is compiled."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        with torch.cuda.stream(stream):
            for call in calls:
                call()
            begin.record()
            calls[0]()
            end.record()
        torch.cuda.current_stream().wait_stream(stream)
        torch.cuda.synchronize()
        return max(float(begin.elapsed_time(end)) / 1e3, 1e-6)

    def _captured(self) -> torch.cuda.CUDAGraph | None:
        before, graph = torch.cuda.current_stream(), torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                self._loop()
        except RuntimeError:
            # A capture that was broken off leaves its own stream as the current one.
            torch.cuda.set_stream(before)
            torch.cuda.synchronize()
            return None
        return graph
