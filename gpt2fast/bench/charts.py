"""The three charts as data; plots.py and report.py draw them.

A chart exists only where the rows have the points for it: a line needs two.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from gpt2fast.bench.output import CHARTS
from gpt2fast.bench.rows import Row
from gpt2fast.bench.table import variant_name

Point = tuple[float, float]

LIMIT_PREFIX = "limit, "  # of a series' label

_WINDOW = 16  # decode steps whose median is one point of a curve: single steps are noise
_WIDE = 8.0  # a range beyond which an axis is logarithmic
_LEAST_POINTS = 3  # of a curve over the context within one run


@dataclass(frozen=True)
class Series:
    """A line, or a cloud of single points. ``low`` and ``high`` bound y over the rounds."""

    label: str
    system: str
    points: tuple[Point, ...]
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    is_limit: bool = False


@dataclass(frozen=True)
class Panel:
    """One pair of axes."""

    title: str
    series: tuple[Series, ...]


@dataclass(frozen=True)
class Chart:
    """A figure with a panel for each model."""

    key: str
    title: str
    note: str
    x_label: str
    y_label: str
    better: str
    panels: tuple[Panel, ...]
    x_log: bool = False
    y_log: bool = False
    x_ticks_at_points: bool = False
    joined: bool = True

    @property
    def labels(self) -> list[str]:
        """Of the lines, each once, the limits left out."""
        lines = [s for panel in self.panels for s in panel.series if not s.is_limit]
        return list(dict.fromkeys(line.label for line in lines))


def make_charts(record: dict[str, Any]) -> list[Chart]:
    """Those charts that the rows of ``record`` have the points for."""
    rows = [row for row in record["rows"] if row["status"] == "ok"]
    charts = (_context_chart(rows), _batch_chart(rows), _quality_chart(rows))
    return [chart for chart in charts if chart.panels]


def _context_chart(rows: Sequence[Row]) -> Chart:
    panels = _panels(rows, ("threads", "batch"), _context_series)
    return Chart(
        key=CHARTS[0],
        title="Latency against context",
        note="Time between two tokens while the context grows. Dashed: reading weights and cache "
        "at the measured bandwidth.",
        y_log=_spans_orders(y for panel in panels for s in panel.series for _, y in s.points),
        x_label="tokens in the context",
        y_label="ms a token",
        better="lower is better",
        panels=panels,
    )


def _batch_chart(rows: Sequence[Row]) -> Chart:
    panels = _panels(rows, ("threads", "prompt_tokens", "new_tokens"), _batch_series)
    return Chart(
        key=CHARTS[1],
        title="Throughput against batch size",
        note="Decoded tokens a second of the whole batch. Dashed: the memory limit, and the "
        "arithmetic peak where that is lower.",
        x_label="batch size",
        y_label="tokens a second",
        better="higher is better",
        x_log=True,
        x_ticks_at_points=True,
        # What one system gains with the batch is no reason, what lies between systems is.
        y_log=_spans_orders(s.points[-1][1] for panel in panels for s in panel.series),
        panels=panels,
    )


def _quality_chart(rows: Sequence[Row]) -> Chart:
    axes = ("threads", "prompt_tokens", "new_tokens")
    # Quality does not depend on the batch; the latency of the smallest is the one a user waits for.
    smallest = min((row["batch"] for row in rows), default=1)
    panels = _panels([r for r in rows if r["batch"] == smallest], axes, _quality_series)
    return Chart(
        key=CHARTS[2],
        title="Quality against latency",
        note="Perplexity on the given text beside the median time between two tokens: down and to "
        "the left is better.",
        x_label="ms a token (median)",
        y_label="perplexity",
        better="lower left is better",
        joined=False,
        panels=panels,
        x_log=_spans_orders(x for panel in panels for s in panel.series for x, _ in s.points),
    )


def _spans_orders(values: Iterable[float]) -> bool:
    """Whether a linear axis would press most of the values into its foot."""
    known = list(values)
    return bool(known) and max(known) > _WIDE * min(known)


def _panels(
    rows: Sequence[Row],
    fixed: tuple[str, ...],
    make: Callable[[Sequence[Row]], list[Series]],
) -> tuple[Panel, ...]:
    """A panel for each model and each value of the ``fixed`` axes that has something to draw."""
    panels = []
    varying = [name for name in fixed if len({row[name] for row in rows}) > 1]
    for group in _grouped(rows, ("model", *fixed)):
        series = make(group)
        if series:
            words = {"prompt_tokens": "prompt", "new_tokens": "new"}
            parts = [f"{words.get(name, name)} {group[0][name]}" for name in varying]
            panels.append(Panel(", ".join([group[0]["model"], *parts]), tuple(series)))
    return tuple(panels)


def _grouped(rows: Iterable[Row], names: tuple[str, ...]) -> list[list[Row]]:
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in names), []).append(row)
    return list(groups.values())


def _by_variant(rows: Sequence[Row]) -> list[list[Row]]:
    return _grouped(rows, ("system", "format", "kv_cache_dtype"))


def _series(row: Row, points: Sequence[Point], **options: Any) -> Series:
    return Series(variant_name(row), row["system"], tuple(points), **options)


def _context_series(rows: Sequence[Row]) -> list[Series]:
    found = []
    for group in _by_variant(rows):
        points = _context_points(group)
        if len(points) >= _LEAST_POINTS:
            found.append(_series(group[0], points))
    return found + _limits(rows, found, _context_limit)


def _context_points(rows: Sequence[Row]) -> list[Point]:
    """Medians of windows of steps by the middle of the window; runs may overlap and are merged."""
    windows: dict[int, list[float]] = {}
    for row in rows:
        for i, step in enumerate(row["step_ms"]):
            # Step i + 1 sees the prompt and i + 1 new tokens.
            windows.setdefault((row["prompt_tokens"] + i + 1) // _WINDOW, []).append(step)
    return [
        ((window + 0.5) * _WINDOW, statistics.median(steps))
        for window, steps in sorted(windows.items())
        if len(steps) >= _WINDOW // 2
    ]


def _context_limit(row: Row, context: float) -> float | None:
    if row["weight_bytes"] is None or row["kv_bytes_per_token"] is None:
        return None
    read = row["weight_bytes"] + row["batch"] * row["kv_bytes_per_token"] * context
    return float(read / row["bandwidth_gb_s"] / 1e6)


def _batch_series(rows: Sequence[Row]) -> list[Series]:
    found = []
    for group in _by_variant(rows):
        group = sorted(group, key=lambda row: row["batch"])
        if len(group) > 1:
            points = [(row["batch"], row["decode_tok_s"]) for row in group]
            low = tuple(row["decode_tok_s_min"] for row in group)
            high = tuple(row["decode_tok_s_max"] for row in group)
            found.append(_series(group[0], points, low=low, high=high))
    return found + _limits(rows, found, _batch_limit)


def _batch_limit(row: Row, batch: float) -> float | None:
    if row["weight_bytes"] is None or row["kv_bytes_per_token"] is None:
        return None
    context = row["prompt_tokens"] + row["new_tokens"] / 2
    read = row["weight_bytes"] + batch * row["kv_bytes_per_token"] * context
    speed = batch * row["bandwidth_gb_s"] * 1e9 / read
    if row["peak_gflop_s"]:
        flops_per_token = row["decode_flops_per_step"] / row["batch"]
        speed = min(speed, row["peak_gflop_s"] * 1e9 / flops_per_token)
    return float(speed)


def _limits(
    rows: Sequence[Row], found: Sequence[Series], limit: Callable[[Row, float], float | None]
) -> list[Series]:
    """The limit of each format, from the bytes of the first system: one more line a system would
    say nearly the same."""
    if not found:
        return []
    system = found[0].system
    lines = []
    for series in found:
        row = next(row for row in rows if variant_name(row) == series.label)
        points = [(x, y) for x, _ in series.points if (y := limit(row, x)) is not None]
        if series.system == system and points:
            label = LIMIT_PREFIX + series.label
            lines.append(Series(label, system, tuple(points), is_limit=True))
    return lines


def _quality_series(rows: Sequence[Row]) -> list[Series]:
    known = [row for row in rows if row["perplexity"] is not None]
    if len(known) < 2:
        return []
    return [_series(row, [(row["itl_ms_p50"], row["perplexity"])]) for row in known]
