"""A chart's panel as inline SVG whose colours come from the page, so that it follows its theme."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from gpt2fast.bench.charts import LIMIT_PREFIX, Chart, Panel, Series
from gpt2fast.bench.palette import Style

_LEFT, _RIGHT, _TOP, _BOTTOM = 70.0, 18.0, 14.0, 46.0  # around the axes
_LABELLED = 6  # dots that can carry their names; more have only the legend
_MARKS = 8  # on a line with more points only so many are marked, about


@dataclass(frozen=True)
class Size:
    """Of a panel, in units of the SVG, which are about pixels where it has all the room it takes;
    ``right`` and ``bottom`` are the ends of its axes."""

    width: float
    height: float

    @property
    def right(self) -> float:
        return self.width - _RIGHT

    @property
    def bottom(self) -> float:
        return self.height - _BOTTOM


WIDE, HALF = Size(1280.0, 460.0), Size(640.0, 340.0)  # alone in its line, or one of two


class Scale:
    """From values to pixels."""

    def __init__(self, low: float, high: float, start: float, end: float, log: bool) -> None:
        self._log = log
        self._low, self._high = self._value(low), self._value(high)
        self._start, self._end = start, end

    def __call__(self, value: float) -> float:
        span = self._high - self._low or 1.0
        share = (self._value(value) - self._low) / span
        return self._start + share * (self._end - self._start)

    def _value(self, value: float) -> float:
        return math.log(value) if self._log else value


def panel_svg(chart: Chart, panel: Panel, look: dict[str, Style], size: Size) -> str:
    """``<svg>`` of one panel; series are coloured by the classes of ``look``."""
    points = [point for series in panel.series for point in series.points]
    x_ticks, x_range = _x_axis(chart, [x for x, _ in points])
    highs = [y for series in panel.series for y in series.high]
    y_ticks, y_range = _y_axis(chart, [y for _, y in points] + highs)
    x = Scale(*x_range, _LEFT, size.right, chart.x_log)
    y = Scale(*y_range, size.bottom, _TOP, chart.y_log)
    label = escape(f"{chart.title}: {panel.title}", quote=True)
    parts = [
        f'<svg viewBox="0 0 {size.width:g} {size.height:g}" role="img" aria-label="{label}">',
        *_axes(chart, size, (x, y), x_ticks, y_ticks),
    ]
    ordered = sorted(panel.series, key=lambda series: not series.is_limit)
    for series in ordered:
        style = look[series.label.removeprefix(LIMIT_PREFIX)]
        parts.append(_series(chart, series, style, x, y))
    if not chart.joined and len(panel.series) <= _LABELLED:
        dots = [(x(s.points[0][0]), y(s.points[0][1])) for s in panel.series]
        parts += place_labels(dots, [series.label for series in panel.series], size)
    return "\n".join([*parts, "</svg>"])


def nice_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers that enclose [low, high], about ``count`` of them."""
    span = (high - low) or abs(high) or 1.0
    rough = span / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 10) for i in range(first, max(last, first + 1) + 1)]


def decade_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times the powers of ten from just below ``low`` to just above ``high``."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [float(f"{factor}e{power}") for power in powers for factor in (1, 2, 5)]
    first = max(i for i, tick in enumerate(ticks) if tick <= low * 1.0001)
    last = min(i for i, tick in enumerate(ticks) if tick >= high * 0.9999)
    return ticks[first : last + 1]


Axis = tuple[list[float], tuple[float, float]]  # ticks, and the ends of the axis


def _x_axis(chart: Chart, values: Sequence[float]) -> Axis:
    low, high = min(values), max(values)
    if chart.x_ticks_at_points:
        return sorted(set(values)), (low / 1.15, high * 1.15)
    if chart.x_log:
        ticks = decade_ticks(low, high)
        return ticks, (ticks[0], ticks[-1])
    if chart.joined:
        return [tick for tick in nice_ticks(low, high, 6) if low <= tick <= high], (low, high)
    ticks = nice_ticks(*padded(values))
    return ticks, (ticks[0], ticks[-1])


def _y_axis(chart: Chart, values: Sequence[float]) -> Axis:
    if chart.y_log:
        ticks = decade_ticks(min(values), max(values))
    elif chart.joined:  # without a logarithm, lengths are compared: from zero
        ticks = nice_ticks(0.0, max(values) * 1.04)
    else:
        ticks = nice_ticks(*padded(values))
    return ticks, (ticks[0], ticks[-1])


def padded(values: Sequence[float]) -> tuple[float, float]:
    """A range around positive ``values``, never so narrow that rounding looks like a difference."""
    low, high = min(values), max(values)
    middle, half = (low + high) / 2, 0.65 * (high - low)
    half = max(half, 0.005 * middle)
    return max(0.0, middle - half), middle + half


def _axes(
    chart: Chart,
    size: Size,
    scales: tuple[Scale, Scale],
    x_ticks: Sequence[float],
    y_ticks: Sequence[float],
) -> list[str]:
    (x, y), right, bottom = scales, size.right, size.bottom
    parts = []
    for tick in y_ticks:
        at = y(tick)
        parts.append(f'<path class="grid" d="M{_LEFT:g} {at:.1f}H{right:g}"/>')
        parts.append(_text(_LEFT - 9, at + 4, f"{tick:g}", "end"))
    for tick in x_ticks:
        at = x(tick)
        parts.append(f'<path class="grid" d="M{at:.1f} {bottom:g}v5"/>')
        parts.append(_text(at, bottom + 20, f"{tick:g}", "middle"))
    parts.append(_text((_LEFT + right) / 2, size.height - 6, chart.x_label, "middle", "axis"))
    middle = (_TOP + bottom) / 2
    turned = f'transform="rotate(-90 13 {middle:g})"'
    parts.append(_text(13, middle, chart.y_label, "middle", "axis", turned))
    return parts


def _text(x: float, y: float, text: str, anchor: str, kind: str = "tick", more: str = "") -> str:
    return (
        f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" {more}>'
        f"{escape(text)}</text>"
    )


def _series(chart: Chart, series: Series, style: Style, x: Scale, y: Scale) -> str:
    pixels = [(x(a), y(b)) for a, b in series.points]
    kind = "limit" if series.is_limit else "line"
    parts = [f'<g class="{style.name}">']
    if series.low:
        lower = [(x(a), y(b)) for (a, _), b in zip(series.points, series.low, strict=True)]
        upper = [(x(a), y(b)) for (a, _), b in zip(series.points, series.high, strict=True)]
        parts.append(f'<path class="band" d="{_path(upper + lower[::-1])}Z"/>')
    if chart.joined:
        parts.append(f'<path class="{kind}" d="{_path(pixels)}">{_title(series.label)}</path>')
    if not series.is_limit:
        every = slice(None, None, max(1, len(pixels) // _MARKS))
        for (px, py), (a, b) in zip(pixels[every], series.points[every], strict=True):
            tip = f"{series.label}: {a:g} {chart.x_label}, {b:.4g} {chart.y_label}"
            shape = marker_path(style.marker, px, py)
            parts.append(f'<path class="dot" d="{shape}">{_title(tip)}</path>')
    return "".join([*parts, "</g>"])


Box = tuple[float, float, float, float]  # left, top, right, bottom


def place_labels(
    dots: Sequence[tuple[float, float]], labels: Sequence[str], size: Size
) -> list[str]:
    """A text beside each dot, on the first side where it covers no dot and no other text."""
    taken: list[Box] = [(px - 6, py - 6, px + 6, py + 6) for px, py in dots]
    parts = []
    for (px, py), label in zip(dots, labels, strict=True):
        width = 6.9 * len(label)
        sides = [(px + 10, py + dy, "start") for dy in (-7, 4, 17, -20, 30)]
        sides += [(px - 10, py + dy, "end") for dy in (-7, 4, 17, -20, 30)]
        boxes = []
        for tx, ty, anchor in sides:
            left = tx if anchor == "start" else tx - width
            boxes.append((left, ty - 10, left + width, ty + 3))
        free = [i for i, box in enumerate(boxes) if _fits(box, taken, size)]
        best = free[0] if free else 0
        taken.append(boxes[best])
        tx, ty, anchor = sides[best]
        parts.append(_text(tx, ty, label, anchor, "name"))
    return parts


def _fits(box: Box, taken: Sequence[Box], size: Size) -> bool:
    left, top, right, bottom = box
    if left < _LEFT or right > size.width or top < 0 or bottom > size.bottom:
        return False
    return all(right < a or c < left or bottom < b or d < top for a, b, c, d in taken)


def _path(pixels: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{px:.1f} {py:.1f}" for px, py in pixels)


def _title(text: str) -> str:
    return f"<title>{escape(text)}</title>"


def marker_path(marker: str, x: float, y: float, r: float = 4.6) -> str:
    """The outline of a marker (matplotlib's letter) around a point."""
    if marker == "o":
        return f"M{x - r:.1f} {y:.1f}a{r} {r} 0 1 0 {2 * r} 0a{r} {r} 0 1 0 {-2 * r} 0Z"
    corners = {
        "s": ((-1, -1), (1, -1), (1, 1), (-1, 1)),
        "^": ((0, -1.2), (1.15, 0.9), (-1.15, 0.9)),
        "v": ((0, 1.2), (1.15, -0.9), (-1.15, -0.9)),
        "<": ((-1.2, 0), (0.9, 1.15), (0.9, -1.15)),
        "D": ((0, -1.3), (1.3, 0), (0, 1.3), (-1.3, 0)),
    }[marker]
    return _path([(x + r * dx, y + r * dy) for dx, dy in corners]) + "Z"
