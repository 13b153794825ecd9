"""One panel of a chart on a pair of matplotlib's axes; sizes come from ``rc_params``."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from gpt2fast.bench.charts import LIMIT_PREFIX, Chart, Panel, Series
from gpt2fast.bench.palette import Style
from gpt2fast.bench.svg_file import GRID, INK, MUTED, PAPER, Tips

_LABELLED = 6  # dots that can carry their names; more have only the legend
_MARKS = 8  # on a line with more points only so many are marked, about
_GAP = 9.0  # points between a dot and its name
_STEPS = (1, 2, 2.5, 5, 10)  # between ticks, times a power of ten


def rc_params(font_size: float, marker_size: float, salt: str) -> Any:
    """For ``matplotlib.rc_context``. Equal figures have equal ids, which differ with ``salt``."""
    return {
        "font.size": font_size,
        "lines.linewidth": 2.2,
        "lines.dashed_pattern": (3.4, 3.4),
        "lines.markersize": marker_size,
        "axes.labelcolor": MUTED,
        "axes.labelpad": 8,
        "figure.constrained_layout.h_pad": 0.09,
        "figure.constrained_layout.w_pad": 0.09,
        "text.color": INK,
        "xtick.color": MUTED,
        "ytick.color": MUTED,
        "svg.fonttype": "none",
        "svg.hashsalt": salt,
        "text.parse_math": False,  # a dollar in a name is a dollar
    }


def draw_panel(axes: Any, chart: Chart, panel: Panel, look: dict[str, Style]) -> dict[str, Tips]:
    """Lines or dots, axes and their labels. Returns what is told of each line, by its gid."""
    tips = {}
    ordered = sorted(panel.series, key=lambda series: not series.is_limit)
    for i, series in enumerate(ordered):
        style = look[series.label.removeprefix(LIMIT_PREFIX)]
        tips[f"series-{i}"] = _line(axes, chart, series, style, f"series-{i}")
    axes.set_xlabel(chart.x_label)
    axes.set_ylabel(f"{chart.y_label} ({chart.better})")
    _scales(axes, chart, panel)
    axes.grid(axis="y", color=GRID, linewidth=1, clip_on=False)
    axes.set_axisbelow(True)
    axes.tick_params(axis="y", length=0, pad=8)
    axes.tick_params(axis="x", length=5, color=GRID, width=1)
    axes.spines[:].set_visible(False)
    return tips


def marker_options(style: Style) -> dict[str, Any]:
    """Of a line in ``style``."""
    return {
        "color": style.light,
        "marker": style.marker,
        "markeredgecolor": PAPER,
        "markeredgewidth": 1.2,
    }


def limit_options(colour: str) -> dict[str, Any]:
    """Of a line that shows a limit."""
    return {"color": colour, "linestyle": "--", "linewidth": 1.5, "alpha": 0.75}


def _line(axes: Any, chart: Chart, series: Series, style: Style, gid: str) -> Tips:
    x, y = zip(*series.points, strict=True)
    if series.is_limit:
        axes.plot(x, y, label=series.label, gid=gid, **limit_options(style.light))
        return Tips(series.label)
    if series.low:
        axes.fill_between(x, series.low, series.high, color=style.light, alpha=0.15, linewidth=0)
    every = max(1, len(x) // _MARKS)
    marks = {**marker_options(style), "markevery": every, "clip_on": False}
    marks["linestyle"] = "-" if chart.joined else "none"
    axes.plot(x, y, label=series.label, gid=gid, **marks)
    told = [
        f"{series.label}: {a:g} {chart.x_label}, {b:.4g} {chart.y_label}"
        for a, b in series.points[::every]
    ]
    return Tips(series.label, told)


def _scales(axes: Any, chart: Chart, panel: Panel) -> None:
    from matplotlib.ticker import MaxNLocator

    xs, ys = zip(*(point for series in panel.series for point in series.points), strict=True)
    ys = (*ys, *(y for series in panel.series for y in series.high))
    if chart.x_ticks_at_points:
        _set_axis(axes, "x", sorted(set(xs)), (min(xs) / 1.15, max(xs) * 1.15), chart.x_log)
    elif chart.x_log or not chart.joined:
        _set_axis(axes, "x", _ticks(xs, chart.x_log), None, chart.x_log)
    else:
        axes.set_xlim(min(xs), max(xs))
        axes.xaxis.set_major_locator(MaxNLocator(6, steps=_STEPS))
    if chart.joined and not chart.y_log:  # lengths are compared: from zero
        _set_axis(axes, "y", linear_ticks(0.0, max(ys) * 1.04), None, False)
    else:
        _set_axis(axes, "y", _ticks(ys, chart.y_log), None, chart.y_log)
    axes.minorticks_off()


def _ticks(values: Sequence[float], log: bool) -> list[float]:
    return decade_ticks(min(values), max(values)) if log else linear_ticks(*padded(values))


def _set_axis(
    axes: Any, name: str, ticks: list[float], ends: tuple[float, float] | None, log: bool
) -> None:
    """Ticks and the ends of an axis, by default its first and last tick."""
    low, high = ends or (ticks[0], ticks[-1])
    axes.set(**{f"{name}scale": "log" if log else "linear", f"{name}lim": (low, high)})
    getattr(axes, f"set_{name}ticks")(ticks, [f"{tick:g}" for tick in ticks])


def linear_ticks(low: float, high: float) -> list[float]:
    """Round numbers that enclose [low, high], about five of them."""
    from matplotlib.ticker import MaxNLocator

    return _enclosing(MaxNLocator(6, steps=_STEPS).tick_values(low, high), low, high)


def decade_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times the powers of ten from just below ``low`` to just above ``high``."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [float(f"{factor}e{power}") for power in powers for factor in (1, 2, 5)]
    return _enclosing(ticks, low, high)


def _enclosing(values: Iterable[float], low: float, high: float) -> list[float]:
    """From the last tick below to the first above; beside the axis by less than is seen will do."""
    ticks = [float(f"{value:.10g}") for value in values]
    first = max(i for i, tick in enumerate(ticks) if tick <= 1.0001 * low)
    last = min(i for i, tick in enumerate(ticks) if tick >= 0.9999 * high)
    return ticks[first : last + 1]


def padded(values: Sequence[float]) -> tuple[float, float]:
    """A range around positive ``values``, never so narrow that rounding looks like a difference."""
    low, high = min(values), max(values)
    middle, half = (low + high) / 2, 0.65 * (high - low)
    half = max(half, 0.005 * middle)
    return max(0.0, middle - half), middle + half


def name_dots(axes: Any, chart: Chart, panel: Panel) -> None:
    """The name beside each dot of a cloud, on the first side where it covers no dot and no other
    name. Last of all, when the layout is final."""
    if chart.joined or len(panel.series) > _LABELLED:
        return
    figure = axes.figure
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    dots = [axes.transData.transform(series.points[0]) for series in panel.series]
    taken = [_box_around(x, y, _GAP * figure.dpi / 72) for x, y in dots]
    inside = figure.bbox.frozen()
    for series in panel.series:
        taken.append(_name_dot(axes, series, taken, inside))


def _name_dot(axes: Any, series: Series, taken: Sequence[Any], inside: Any) -> Any:
    """Put the name at its place. Returns the box that it fills."""
    sides = [(_GAP, dy, "left") for dy in (7, -4, -17, 20)]
    sides += [(-_GAP, dy, "right") for dy in (7, -4, -17, 20)]
    text = axes.annotate(
        series.label, series.points[0], (0, 0), textcoords="offset points", annotation_clip=False
    )
    for x, y, side in (*sides, sides[0]):  # the first one where none is free
        text.set_position((x, y))
        text.set_horizontalalignment(side)
        box = text.get_window_extent()
        if inside.containsx(box.x0) and inside.containsx(box.x1) and not box.count_overlaps(taken):
            break
    return box


def _box_around(x: float, y: float, radius: float) -> Any:
    from matplotlib.transforms import Bbox

    return Bbox.from_extents(x - radius, y - radius, x + radius, y + radius)
