"""One self-contained HTML file: limits, speeds, charts, every number, and how it was measured."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from gpt2fast.bench.charts import LIMIT_PREFIX, Chart
from gpt2fast.bench.page import page
from gpt2fast.bench.palette import Style
from gpt2fast.bench.report_method import method
from gpt2fast.bench.report_table import rows_table
from gpt2fast.bench.rows import Row
from gpt2fast.bench.svg import HALF, WIDE, marker_path, panel_svg
from gpt2fast.bench.table import failure, grouped, peak_note, point_name, variant_name

_OPEN_POINTS = 3  # of the grid; the tables of more are folded


def make_report(record: dict[str, Any], charts: Sequence[Chart], look: dict[str, Style]) -> str:
    """The document for ``record`` (see ``rows.make_record``); ``look`` has a style a variant."""
    rows = record["rows"]
    models = ", ".join(dict.fromkeys(row["model"] for row in record["rows"]))
    parts = [_header(record, models), _cards(record)]
    if charts:
        drawn = "".join(_chart(chart, look) for chart in charts)
        parts.append(f'<h2>Charts</h2><div class="charts">{drawn}</div>')
    parts += ["<h2>Speed beside the limit</h2>", _bars_note(record)]
    groups = grouped(rows)
    parts += [_point(group, look, len(groups) <= _OPEN_POINTS) for group in groups]
    parts += ["<h2>How it was measured</h2>", method(record)]
    return page(f"gpt2fast bench: {escape(models)}", "\n".join(parts), look.values())


def _header(record: dict[str, Any], models: str) -> str:
    machine, options = record["machine"], record["options"]
    memory = machine["memory_bytes"]
    facts = [
        f"{machine['processor']}, {machine['cpus']} CPUs, {machine['isa']} instructions",
        f"{memory / 2**30:.0f} GiB" if memory else "",
        machine["system"],
    ]
    rounds = f"medians of {options['rounds']} interleaved rounds"
    stopped = " · <b>interrupted: not every round was run</b>" if record["interrupted"] else ""
    return (
        f"<header><h1>{escape(models)}</h1>"
        f"<p>{escape(' · '.join(filter(None, facts)))}</p>"
        f"<p>{escape(record['date'])} · gpt2fast {escape(record['gpt2fast'])} · {rounds}{stopped}"
        "</p></header>"
    )


def _cards(record: dict[str, Any]) -> str:
    limits = record["limits"]
    cards = []
    if bandwidth := limits["read_bandwidth_gb_s"]:
        note = f"measured here, {bandwidth['min']:.1f} to {bandwidth['max']:.1f} during the run"
        cards.append(_card("Memory read limit", f"{bandwidth['median']:.1f}", "GB/s", note))
    if peaks := limits["arithmetic_peak_gflop_s"]:
        best_peak = max(peak["median"] for peak in peaks)
        note = peak_note(peaks)
        cards.append(_card("Arithmetic peak", f"{best_peak:,.0f}", "GFLOP/s", note))
    good = [row for row in record["rows"] if row["status"] == "ok"]
    if good:
        best = max(good, key=lambda row: float(row["decode_tok_s"]))
        note = f"{variant_name(best)}, batch {best['batch']}"
        cards.append(_card("Fastest decoding", f"{best['decode_tok_s']:,.1f}", "tok/s", note))
        first = min(good, key=lambda row: float(row["ttft_ms"]))
        note = f"{variant_name(first)}, {first['prompt_tokens']} tokens of prompt"
        cards.append(_card("Soonest first token", f"{first['ttft_ms']:,.1f}", "ms", note))
    return f'<section class="cards">{"".join(cards)}</section>'


def _card(key: str, value: str, unit: str, note: str) -> str:
    return (
        f'<div class="card"><div class="key">{escape(key)}</div>'
        f'<div class="value">{value} <small>{escape(unit)}</small></div>'
        f'<div class="key">{escape(note)}</div></div>'
    )


def _bars_note(record: dict[str, Any]) -> str:
    text = (
        "Decoded tokens a second of the whole batch. The dashed line is what reading the weights "
        "and the cache once a step allows at the bandwidth measured beside each run."
    )
    if record["baseline"]:
        text += f" Ratios are over {record['baseline']}, taken within each round."
    return f'<p class="lead">{escape(text)}</p>'


def _point(rows: Sequence[Row], look: dict[str, Style], is_open: bool) -> str:
    good = [row for row in rows if row["status"] == "ok"]
    body = ""
    if good:
        table = rows_table(good, look)
        folded = f"<details><summary>All numbers</summary>{table}</details>"
        body = _bars(good, look) + (table if is_open else folded)
    failed = [
        f"<li><b>{escape(row['status'])}</b> · {escape(failure(row))}</li>"
        for row in rows
        if row["status"] != "ok"
    ]
    if failed:
        where = '<ul class="failed" style="margin-top:30px">' if good else '<ul class="failed">'
        body += f"{where}{''.join(failed)}</ul>"
    title = escape(point_name(rows[0]))
    return f'<section class="card"><h3>{title}</h3>{body}</section>'


def _bars(rows: Sequence[Row], look: dict[str, Style]) -> str:
    tops = [max(row["decode_tok_s"], _limit(row) or 0.0) for row in rows]
    full = max(tops) * 1.02
    parts = []
    for row in rows:
        name, speed, limit = variant_name(row), row["decode_tok_s"], _limit(row)
        mark = ""
        if limit is not None:
            tip = f"limit: {limit:.1f} tok/s"
            mark = f'<div class="mark" style="left:{100 * limit / full:.2f}%" title="{tip}"></div>'
        ratio = row.get("decode_ratio")
        more = f" <small>{ratio:.2f}×</small>" if ratio and len(rows) > 1 else ""
        parts.append(
            f'<div class="name">{escape(name)}</div>'
            f'<div class="track {look[name].name}">'
            f'<div class="bar" style="width:{100 * speed / full:.2f}%"></div>{mark}</div>'
            f'<div class="num">{speed:,.1f} tok/s{more}</div>'
        )
    return f'<div class="bars">{"".join(parts)}</div>'


def _limit(row: Row) -> float | None:
    """Tokens a second at the bandwidth that was measured beside the row."""
    read = row["bytes_per_step"]
    return row["batch"] * row["bandwidth_gb_s"] * 1e9 / read if read else None


def _chart(chart: Chart, look: dict[str, Style]) -> str:
    size = WIDE if len(chart.panels) == 1 else HALF
    figures = [
        f'<div class="panel"><div class="key">{escape(panel.title)}</div>'
        f"{panel_svg(chart, panel, look, size)}</div>"
        for panel in chart.panels
    ]
    alone = " alone" if size == WIDE else ""
    return (
        f'<section class="card"><h3>{escape(chart.title)}</h3>'
        f'<p class="lead">{escape(chart.note)}</p><div class="panels{alone}">'
        f"{''.join(figures)}</div>"
        f"{_legend(chart, look)}</section>"
    )


def _legend(chart: Chart, look: dict[str, Style]) -> str:
    items = []
    for label in chart.labels:
        style = look[label]
        marker = marker_path(style.marker, 13, 7, 4)
        drawn = f'<path class="line" d="M1 7H25"/><path class="dot" d="{marker}"/>'
        items.append(_legend_item(style.name, drawn, label))
    if any(s.label.startswith(LIMIT_PREFIX) for panel in chart.panels for s in panel.series):
        items.append(_legend_item("any", '<path class="limit" d="M1 7H25"/>', "its limit"))
    return f'<ul class="legend">{"".join(items)}</ul>'


def _legend_item(name: str, drawn: str, label: str) -> str:
    return (
        f'<li class="{name}"><svg viewBox="0 0 26 14" aria-hidden="true">{drawn}</svg>'
        f"{escape(label)}</li>"
    )
