"""The numbers of one point of the grid, in groups of columns, for the report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby

from gpt2fast.bench.palette import Style
from gpt2fast.bench.rows import Row
from gpt2fast.bench.table import number, ratio, variant_name


@dataclass(frozen=True)
class Column:
    """A column under a group's heading; ``share`` names a field in [0, 1] drawn behind the text,
    ``ranged`` one whose range stands below it."""

    group: str
    head: str
    text: Callable[[Row], str]
    share: str | None = None
    ranged: str | None = None


def _short(value: float) -> str:
    """Three digits or more, without decimals that mean nothing."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _value(name: str) -> Callable[[Row], str]:
    def text(row: Row) -> str:
        value = row.get(name)
        return "" if value is None else _short(value)

    return text


def _agreement(row: Row) -> str:
    return f"{row['agreement']}/{row['agreement_of']}"


_COLUMNS = (
    Column("First token", "ms", _value("ttft_ms"), ranged="ttft_ms"),
    Column("First token", "tok/s", _value("prefill_tok_s")),
    Column("First token", "GFLOP/s", _value("prefill_gflop_s")),
    Column(
        "First token", "of peak", number("prefill_peak_fraction", ".2f"), "prefill_peak_fraction"
    ),
    Column("Between tokens, ms", "p50", _value("itl_ms_p50")),
    Column("Between tokens, ms", "p90", _value("itl_ms_p90")),
    Column("Between tokens, ms", "p99", _value("itl_ms_p99")),
    Column("Decoding", "tok/s", _value("decode_tok_s"), ranged="decode_tok_s"),
    Column("Decoding", "ratio", ratio("decode_ratio")),
    Column("Memory read", "GB/s", _value("decode_gb_s")),
    Column(
        "Memory read",
        "of limit",
        number("decode_bandwidth_fraction", ".2f"),
        "decode_bandwidth_fraction",
    ),
    Column("Cost", "MB", _value("peak_memory_mb")),
    Column("Cost", "load s", _value("load_s"), ranged="load_s"),
    Column("Cost", "cold s", _value("cold_start_s"), ranged="cold_start_s"),
    Column("Quality", "perplexity", number("perplexity", ",.2f")),
    Column("Quality", "bits/byte", number("bits_per_byte", ".3f")),
    Column("Quality", "greedy", _agreement),
)


@dataclass(frozen=True)
class Group:
    """Columns under one heading."""

    name: str
    columns: tuple[Column, ...]


@dataclass(frozen=True)
class Cell:
    """``share`` in percent is drawn behind the text; ``classes`` are of CSS."""

    text: str
    range: str
    share: float | None
    classes: str


@dataclass(frozen=True)
class Line:
    """A row of the table; ``style`` is a class of CSS."""

    name: str
    style: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Table:
    """What the template draws."""

    groups: tuple[Group, ...]
    lines: tuple[Line, ...]


def make_table(rows: Sequence[Row], look: dict[str, Style]) -> Table:
    """All columns that have something to say."""
    shown = [column for column in _COLUMNS if any(column.text(row) for row in rows)]
    groups = tuple(
        Group(name, tuple(columns)) for name, columns in groupby(shown, lambda c: c.group)
    )
    return Table(groups, tuple(_line(row, groups, look) for row in rows))


def _line(row: Row, groups: Sequence[Group], look: dict[str, Style]) -> Line:
    name = variant_name(row)
    cells = [
        _cell(column, row, is_first=i == 0)
        for group in groups
        for i, column in enumerate(group.columns)
    ]
    return Line(name, look[name].name, tuple(cells))


def _cell(column: Column, row: Row, is_first: bool) -> Cell:
    share = row.get(column.share) if column.share else None
    classes = ["edge"] * is_first + ["part"] * (share is not None)
    percent = None if share is None else 100 * min(share, 1.0)
    return Cell(column.text(row), _range(column, row), percent, " ".join(classes))


def _range(column: Column, row: Row) -> str:
    """Minimum and maximum over the rounds."""
    if column.ranged is None or row.get(column.ranged) is None:
        return ""
    return f"{_short(row[f'{column.ranged}_min'])} – {_short(row[f'{column.ranged}_max'])}"
