"""The numbers of one point of the grid as an HTML table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from itertools import groupby

from gpt2fast.bench.palette import Style
from gpt2fast.bench.rows import Row
from gpt2fast.bench.table import number, ratio, variant_name


@dataclass(frozen=True)
class Column:
    """A column under a group's heading; ``share`` names a field in [0, 1] drawn behind the text."""

    group: str
    head: str
    text: Callable[[Row], str]
    share: str | None = None


def _short(value: float) -> str:
    """Three digits or more, without decimals that mean nothing."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _value(name: str) -> Callable[[Row], str]:
    def text(row: Row) -> str:
        value = row.get(name)
        return "" if value is None else _short(value)

    return text


def _ranged(name: str) -> Callable[[Row], str]:
    """The median, and below it minimum and maximum over the rounds."""

    def text(row: Row) -> str:
        if row.get(name) is None:
            return ""
        low, high = _short(row[f"{name}_min"]), _short(row[f"{name}_max"])
        return f"{_short(row[name])}<small>{low} – {high}</small>"

    return text


def _agreement(row: Row) -> str:
    return f"{row['agreement']}/{row['agreement_of']}"


_COLUMNS = (
    Column("First token", "ms", _ranged("ttft_ms")),
    Column("First token", "tok/s", _value("prefill_tok_s")),
    Column("First token", "GFLOP/s", _value("prefill_gflop_s")),
    Column(
        "First token", "of peak", number("prefill_peak_fraction", ".2f"), "prefill_peak_fraction"
    ),
    Column("Between tokens, ms", "p50", _value("itl_ms_p50")),
    Column("Between tokens, ms", "p90", _value("itl_ms_p90")),
    Column("Between tokens, ms", "p99", _value("itl_ms_p99")),
    Column("Decoding", "tok/s", _ranged("decode_tok_s")),
    Column("Decoding", "ratio", ratio("decode_ratio")),
    Column("Memory read", "GB/s", _value("decode_gb_s")),
    Column(
        "Memory read",
        "of limit",
        number("decode_bandwidth_fraction", ".2f"),
        "decode_bandwidth_fraction",
    ),
    Column("Cost", "MB", _value("peak_memory_mb")),
    Column("Cost", "load s", _ranged("load_s")),
    Column("Cost", "cold s", _ranged("cold_start_s")),
    Column("Quality", "perplexity", number("perplexity", ",.2f")),
    Column("Quality", "bits/byte", number("bits_per_byte", ".3f")),
    Column("Quality", "greedy", _agreement),
)


def rows_table(rows: Sequence[Row], look: dict[str, Style]) -> str:
    """All columns that have something to say, in a box that scrolls."""
    shown = [column for column in _COLUMNS if any(column.text(row) for row in rows)]
    first_of_group = set()
    groups = ["<th></th>"]
    for group, members in groupby(shown, key=lambda column: column.group):
        columns = list(members)
        first_of_group.add(columns[0])
        groups.append(f'<th class="edge" colspan="{len(columns)}">{escape(group)}</th>')
    heads = "".join(f"<th{_edge(c, first_of_group)}>{escape(c.head)}</th>" for c in shown)
    body = []
    for row in rows:
        name = variant_name(row)
        cells = "".join(_cell(column, row, column in first_of_group) for column in shown)
        body.append(
            f'<tr class="{look[name].name}"><th scope="row">{escape(name)}</th>{cells}</tr>'
        )
    return (
        f'<div class="scroll"><table><thead><tr class="group">{"".join(groups)}</tr>'
        f"<tr><th></th>{heads}</tr></thead><tbody>{''.join(body)}</tbody></table></div>"
    )


def _edge(column: Column, firsts: set[Column]) -> str:
    return ' class="edge"' if column in firsts else ""


def _cell(column: Column, row: Row, is_first: bool) -> str:
    classes = ["edge"] if is_first else []
    style = ""
    share = row.get(column.share) if column.share else None
    if share is not None:
        classes.append("part")
        style = f' style="--p:{100 * min(share, 1.0):.0f}%"'
    names = f' class="{" ".join(classes)}"' if classes else ""
    return f"<td{names}{style}>{column.text(row)}</td>"
