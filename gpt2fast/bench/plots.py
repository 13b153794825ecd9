"""The charts as PNG and SVG files, drawn by matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gpt2fast.bench.charts import LIMIT_PREFIX, Chart, Panel, Series
from gpt2fast.bench.output import CHART_SUFFIXES
from gpt2fast.bench.palette import Style
from gpt2fast.bench.svg import decade_ticks, padded
from gpt2fast.bench.svg_file import GRID, INK, MUTED, PAPER, save_svg
from gpt2fast.errors import MissingDependencyError
from gpt2fast.files.atomic import staged_file

_DPI = 200


def write_plots(
    charts: Sequence[Chart], look: dict[str, Style], caption: str, out: Path
) -> list[Path]:
    """One PNG and one SVG for each chart. Raises ``MissingDependencyError`` without matplotlib."""
    if not charts:
        return []
    try:
        from matplotlib import rc_context
    except ImportError:
        raise MissingDependencyError(
            "plots need matplotlib: pip install 'gpt2fast[bench]'"
        ) from None
    paths = []
    paper: Any = {
        "font.size": 10,
        "axes.edgecolor": MUTED,
        "axes.labelcolor": MUTED,
        "text.color": INK,
        "xtick.color": MUTED,
        "ytick.color": MUTED,
        "svg.fonttype": "none",
        "text.parse_math": False,  # a dollar in a name is a dollar
    }
    with rc_context(paper):
        for chart in charts:
            figure = _draw(chart, look, caption)
            png, svg = (out / f"{chart.key}.{suffix}" for suffix in CHART_SUFFIXES)
            with staged_file(png) as stage:
                figure.savefig(stage, format="png", dpi=_DPI, facecolor=PAPER)
            with staged_file(svg) as stage:
                save_svg(figure, stage, {style.light: style.dark for style in look.values()})
            paths += [png, svg]
    return paths


def _draw(chart: Chart, look: dict[str, Style], caption: str) -> Any:
    from matplotlib.figure import Figure

    columns = min(2, len(chart.panels))
    lines = -(-len(chart.panels) // columns)
    # Inches; the legend stands beside the panels.
    size = (5.6 * columns + 2.2, 4.3 * lines + 0.5) if columns > 1 else (9.6, 5.4)
    figure = Figure(figsize=size, layout="constrained")
    figure.suptitle(chart.title, x=0.01, ha="left", fontsize=13, fontweight="bold")
    table = figure.subplots(lines, columns, squeeze=False)
    for i, axes in enumerate(table.flat):
        if i < len(chart.panels):
            _panel(axes, chart, chart.panels[i], look)
        else:
            axes.set_visible(False)
    _legend(figure, chart, table.flat)
    figure.supxlabel(caption, x=0.01, ha="left", fontsize=7.5, color=MUTED)
    return figure


def _panel(axes: Any, chart: Chart, panel: Panel, look: dict[str, Style]) -> None:
    for series in panel.series:
        _line(axes, chart, series, look[series.label.removeprefix(LIMIT_PREFIX)])
    axes.set_xlabel(chart.x_label)
    axes.set_ylabel(f"{chart.y_label} ({chart.better})")
    axes.set_title(panel.title, loc="left", fontsize=10, color=MUTED)
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    _scales(axes, chart, panel)


def _scales(axes: Any, chart: Chart, panel: Panel) -> None:
    xs, ys = zip(*(point for series in panel.series for point in series.points), strict=True)
    if chart.x_log:
        ticks = sorted(set(xs)) if chart.x_ticks_at_points else decade_ticks(min(xs), max(xs))
        axes.set_xscale("log")
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    elif not chart.joined:
        axes.set_xlim(*padded(xs))
    if chart.y_log:
        ticks = decade_ticks(min(ys), max(ys))
        axes.set_yscale("log")
        axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    elif chart.joined:
        axes.set_ylim(bottom=0)
    else:
        axes.set_ylim(*padded(ys))
    axes.minorticks_off()


def _legend(figure: Any, chart: Chart, axes: Any) -> None:
    """One for all panels, outside, where no curve can run behind it."""
    from matplotlib.lines import Line2D

    found: dict[str, Any] = {}
    for each in axes:
        for line, label in zip(*each.get_legend_handles_labels(), strict=True):
            if label.startswith(LIMIT_PREFIX):
                grey = Line2D([], [], color=MUTED, linestyle="--", linewidth=1.2)
                found.setdefault("limit, in the line's colour", grey)
            else:
                found.setdefault(label, line)
    order = sorted(found, key=lambda label: label.startswith("limit"))
    handles = [found[label] for label in order]
    figure.legend(handles, order, frameon=False, fontsize=8, loc="outside right upper")


def _line(axes: Any, chart: Chart, series: Series, style: Style) -> None:
    x, y = zip(*series.points, strict=True)
    if series.is_limit:
        axes.plot(x, y, "--", color=style.light, linewidth=1.2, alpha=0.75, label=series.label)
        return
    line = "-" if chart.joined else ""
    marks = {"marker": style.marker, "markersize": 6, "markevery": max(1, len(x) // 8)}
    axes.plot(x, y, line, color=style.light, linewidth=2, label=series.label, **marks)
    if series.low:
        axes.fill_between(x, series.low, series.high, color=style.light, alpha=0.15, linewidth=0)
