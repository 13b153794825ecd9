"""The charts, drawn by matplotlib: as PNG and SVG files, and for the report's page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from gpt2fast.bench.charts import LIMIT_PREFIX, Chart
from gpt2fast.bench.output import CHART_SUFFIXES
from gpt2fast.bench.palette import Style
from gpt2fast.bench.panel import draw_panel, limit_options, marker_options, name_dots, rc_params
from gpt2fast.bench.svg_file import MUTED, PAPER, inline_svg, save_svg
from gpt2fast.files.atomic import staged_file

_DPI = 200
_POINTS_PER_INCH = 72  # a unit of an SVG of matplotlib's is a point

# Of the report's panels, in points, which are about pixels of the page: alone in a line, or not.
_WIDE, _HALF = (1280, 460), (640, 340)
_KEY = (30, 14)


def write_plots(
    charts: Sequence[Chart], look: dict[str, Style], caption: str, out: Path
) -> list[Path]:
    """One PNG and one SVG for each chart."""
    from matplotlib import rc_context

    paths = []
    for chart in charts:
        with rc_context(rc_params(10, 7, chart.key)):
            figure = _draw(chart, look, caption)
            png, svg = (out / f"{chart.key}.{suffix}" for suffix in CHART_SUFFIXES)
            with staged_file(png) as stage:
                figure.savefig(stage, format="png", dpi=_DPI, facecolor=PAPER)
            with staged_file(svg) as stage:
                save_svg(figure, stage, dark_colours(look))
            paths += [png, svg]
    return paths


def dark_colours(look: dict[str, Style]) -> dict[str, str]:
    """The colours of the lines on a dark page, by those on a light one."""
    return {style.light: style.dark for style in look.values()}


def inline_panels(chart: Chart, look: dict[str, Style]) -> list[str]:
    """``<svg>`` of each panel, without its title."""
    from matplotlib import rc_context

    found = []
    for i, panel in enumerate(chart.panels):
        with rc_context(rc_params(12.5, 9, f"{chart.key}-{i}")):
            figure = _figure(_WIDE if len(chart.panels) == 1 else _HALF)
            axes = figure.subplots()
            tips = draw_panel(axes, chart, panel, look)
            name_dots(axes, chart, panel)
            found.append(inline_svg(figure, f"{chart.title}: {panel.title}", tips))
    return found


def inline_legend(chart: Chart, look: dict[str, Style]) -> list[tuple[str, str]]:
    """Text and ``<svg>`` of each entry of the legend."""
    found = [(label, _key(chart, look[label])) for label in chart.labels]
    if any(series.is_limit for panel in chart.panels for series in panel.series):
        found.append(("its limit", _key(chart, None)))
    return found


def _key(chart: Chart, style: Style | None) -> str:
    """A line in ``style``; for None, that of the limits."""
    from matplotlib import rc_context

    with rc_context(rc_params(10, 8, f"{chart.key}-{style.name if style else None}")):
        figure = _figure(_KEY, layout=None)
        axes = figure.add_axes((0, 0, 1, 1), xlim=(0, _KEY[0]), ylim=(0, _KEY[1]))
        axes.axis("off")
        middle = _KEY[1] / 2
        options = marker_options(style) if style else limit_options(MUTED)
        axes.plot((1, _KEY[0] / 2, _KEY[0] - 1), 3 * (middle,), markevery=(1, 2), **options)
        return inline_svg(figure)


def _figure(size: tuple[int, int], layout: Literal["constrained"] | None = "constrained") -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    width, height = size
    inches = (width / _POINTS_PER_INCH, height / _POINTS_PER_INCH)
    figure = Figure(inches, _POINTS_PER_INCH, layout=layout)
    FigureCanvasAgg(figure)  # measures texts
    return figure


def _draw(chart: Chart, look: dict[str, Style], caption: str) -> Any:
    columns = min(2, len(chart.panels))
    lines = -(-len(chart.panels) // columns)
    # The legend stands beside the panels.
    size = (403 * columns + 158, 310 * lines + 36) if columns > 1 else (691, 389)
    figure = _figure(size)
    figure.suptitle(chart.title, x=0.01, ha="left", fontsize=13, fontweight="bold")
    figure.supxlabel(caption, x=0.01, ha="left", fontsize=7.5, color=MUTED)
    table = list(figure.subplots(lines, columns, squeeze=False).flat)
    for axes, panel in zip(table, chart.panels, strict=False):
        draw_panel(axes, chart, panel, look)
        axes.set_title(panel.title, loc="left", fontsize=10, color=MUTED)
    for axes in table[len(chart.panels) :]:
        axes.set_visible(False)
    _legend(figure, chart, table)
    for axes, panel in zip(table, chart.panels, strict=False):
        name_dots(axes, chart, panel)
    return figure


def _legend(figure: Any, chart: Chart, axes: Any) -> None:
    """One for all panels, outside, where no curve can run behind it."""
    from matplotlib.lines import Line2D

    found: dict[str, Any] = {}
    for each in axes:
        for line, label in zip(*each.get_legend_handles_labels(), strict=True):
            if label.startswith(LIMIT_PREFIX):
                grey = Line2D([], [], **limit_options(MUTED))
                found.setdefault("limit, in the line's colour", grey)
            else:
                found.setdefault(label, line)
    order = sorted(found, key=lambda label: label.startswith("limit"))
    handles = [found[label] for label in order]
    figure.legend(handles, order, frameon=False, fontsize=8, loc="outside right upper")
