"""Charts as files: sizes, theme, ticks, names."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

pytest.importorskip("matplotlib")

from bench.records import measure, record_of

from gpt2fast.bench.charts import Chart, Panel, Series, make_charts
from gpt2fast.bench.palette import make_styles
from gpt2fast.bench.panel import decade_ticks, draw_panel, linear_ticks, name_dots
from gpt2fast.bench.plots import write_plots


def test_plots(tmp_path: Path) -> None:
    record = record_of(*measure((1, 8)))
    for row in record["rows"]:
        row["model"] = r"<b> $\nonsense$"  # neither markup nor mathematics
    charts = make_charts(record)
    paths = write_plots(charts, make_styles(record), "a caption", tmp_path)
    assert len(paths) == 2 * len(charts) == 6
    for path in paths:
        if path.suffix == ".png":
            start = path.read_bytes()[:24]
            assert start.startswith(b"\x89PNG")
            assert int.from_bytes(start[16:20], "big") >= 1200, "pixels across"
        else:
            assert_scales_and_follows_the_theme(path)
            assert "<b> $\\nonsense$" in "".join(ElementTree.parse(path).getroot().itertext())


def assert_scales_and_follows_the_theme(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.startswith('<?xml version="1.0" encoding="utf-8"?>\n<svg ')
    root = ElementTree.fromstring(text.encode())
    assert "viewBox" in root.attrib
    assert not {"width", "height"} & root.attrib.keys(), "it takes the width of the page"
    style = next(each.text for each in root.iter() if each.tag.endswith("}style"))
    assert style is not None
    assert "prefers-color-scheme: dark" in style


@pytest.mark.parametrize(("low", "high"), [(0, 7.3), (25.1, 25.2), (0.001, 0.0011), (0, 123456)])
def test_ticks_enclose_the_values(low: float, high: float) -> None:
    ticks = linear_ticks(low, high)
    assert ticks[0] <= low < high <= ticks[-1]
    assert 3 <= len(ticks) <= 9
    low = max(low, 1e-3)
    decades = decade_ticks(low, high)
    assert decades[0] <= low < high <= decades[-1]


@pytest.mark.parametrize("dots", [1, 2, 4, 6])
def test_names_cover_no_dot_and_no_other_name(dots: int) -> None:
    from matplotlib.figure import Figure

    record = record_of(*measure())
    label, look = "gpt2fast float32", make_styles(record)
    points = [(1.0 + 0.001 * i, 20.0 + 0.001 * (i % 2)) for i in range(dots)]
    far = Series(label, "gpt2fast", ((9.0, 60.0),))
    panel = Panel("", (*(Series(label, "gpt2fast", (point,)) for point in points), far))
    chart = Chart("key", "title", "note", "x", "y", "left", (panel,), joined=False)
    figure = Figure((9, 5), layout="constrained")
    axes: Any = figure.subplots()
    draw_panel(axes, chart, panel, look)
    name_dots(axes, chart, panel)
    boxes = [text.get_window_extent() for text in axes.texts]
    assert len(boxes) == (0 if dots == 6 else dots + 1), "many dots have the legend alone"
    for a, b in itertools.combinations(boxes, 2):
        assert not a.overlaps(b)
    for box in boxes:
        assert not any(box.contains(*axes.transData.transform(point)) for point in points)
