"""One self-contained HTML file: limits, speeds, charts, every number, and how it was measured.

What stands in it is made here; how it stands there is in templates/.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gpt2fast.bench.charts import Chart
from gpt2fast.bench.palette import Style
from gpt2fast.bench.plots import dark_colours, inline_legend, inline_panels
from gpt2fast.bench.report_method import method
from gpt2fast.bench.report_table import make_table
from gpt2fast.bench.rows import Row
from gpt2fast.bench.svg_file import DARK, GRID, INK, MUTED, PAPER, dark_rules
from gpt2fast.bench.table import failure, grouped, peak_note, point_name, variant_name

_TEMPLATE = "report.html.j2"
_OPEN_POINTS = 3  # of the grid; the tables of more are folded
# Of the page and of its charts.
_COLOURS = {"card": PAPER, "ink": INK, "soft": MUTED, "line": GRID}


def make_report(record: dict[str, Any], charts: Sequence[Chart], look: dict[str, Style]) -> str:
    """The document for ``record`` (see ``rows.make_record``); ``look`` has a style a variant."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("gpt2fast.bench"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    rows = record["rows"]
    groups = grouped(rows)
    return environment.get_template(_TEMPLATE).render(
        record=record,
        models=", ".join(dict.fromkeys(row["model"] for row in rows)),
        facts=_machine_facts(record["machine"]),
        cards=_cards(record),
        charts=[_chart(chart, look) for chart in charts],
        points=[_point(group, look) for group in groups],
        points_are_open=len(groups) <= _OPEN_POINTS,
        method=method(record),
        styles=list(look.values()),
        colours=[(name, light, DARK[light]) for name, light in _COLOURS.items()],
        dark_rules=dark_rules(dark_colours(look)),
    )


def _machine_facts(machine: dict[str, Any]) -> list[str]:
    memory = machine["memory_bytes"]
    return [
        f"{machine['processor']}, {machine['cpus']} CPUs, {machine['isa']} instructions",
        *([f"{memory / 2**30:.0f} GiB"] if memory else []),
        machine["system"],
    ]


def _cards(record: dict[str, Any]) -> list[dict[str, str]]:
    limits = record["limits"]
    cards = []
    if bandwidth := limits["read_bandwidth_gb_s"]:
        note = f"measured here, {bandwidth['min']:.1f} to {bandwidth['max']:.1f} during the run"
        cards.append(_card("Memory read limit", f"{bandwidth['median']:.1f}", "GB/s", note))
    if peaks := limits["arithmetic_peak_gflop_s"]:
        best_peak = max(peak["median"] for peak in peaks)
        cards.append(_card("Arithmetic peak", f"{best_peak:,.0f}", "GFLOP/s", peak_note(peaks)))
    good = [row for row in record["rows"] if row["status"] == "ok"]
    if good:
        best = max(good, key=lambda row: float(row["decode_tok_s"]))
        note = f"{variant_name(best)}, batch {best['batch']}"
        cards.append(_card("Fastest decoding", f"{best['decode_tok_s']:,.1f}", "tok/s", note))
        first = min(good, key=lambda row: float(row["ttft_ms"]))
        note = f"{variant_name(first)}, {first['prompt_tokens']} tokens of prompt"
        cards.append(_card("Soonest first token", f"{first['ttft_ms']:,.1f}", "ms", note))
    return cards


def _card(key: str, value: str, unit: str, note: str) -> dict[str, str]:
    return {"key": key, "value": value, "unit": unit, "note": note}


def _chart(chart: Chart, look: dict[str, Style]) -> dict[str, Any]:
    titles = [panel.title for panel in chart.panels]
    return {
        "title": chart.title,
        "note": chart.note,
        "panels": list(zip(titles, inline_panels(chart, look), strict=True)),
        "legend": inline_legend(chart, look),
    }


def _point(rows: Sequence[Row], look: dict[str, Style]) -> dict[str, Any]:
    good = [row for row in rows if row["status"] == "ok"]
    bad = [row for row in rows if row["status"] != "ok"]
    return {
        "name": point_name(rows[0]),
        "bars": _bars(good, look),
        "table": make_table(good, look),
        "failed": [{"status": row["status"], "reason": failure(row)} for row in bad],
    }


def _bars(rows: Sequence[Row], look: dict[str, Style]) -> list[dict[str, Any]]:
    """Widths are in percent of the longest, limits included."""
    limits = [_limit(row) for row in rows]
    tops = [max(row["decode_tok_s"], limit or 0.0) for row, limit in zip(rows, limits, strict=True)]
    full = 1.02 * max(tops, default=1.0)
    return [
        {
            "name": variant_name(row),
            "style": look[variant_name(row)].name,
            "speed": row["decode_tok_s"],
            "width": 100 * row["decode_tok_s"] / full,
            "limit": limit,
            "limit_width": 100 * (limit or 0.0) / full,
            "ratio": row.get("decode_ratio") if len(rows) > 1 else None,
        }
        for row, limit in zip(rows, limits, strict=True)
    ]


def _limit(row: Row) -> float | None:
    """Tokens a second at the bandwidth that was measured beside the row."""
    read = row["bytes_per_step"]
    return row["batch"] * row["bandwidth_gb_s"] * 1e9 / read if read else None
