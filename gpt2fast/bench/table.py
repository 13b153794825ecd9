"""The rows as text for a terminal, one block a point of the grid."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from gpt2fast.bench.rows import Row
from gpt2fast.terminal import text_table


@dataclass(frozen=True)
class Column:
    """``text(row)`` is empty where there is nothing to say; a column of nothing is left out."""

    head: tuple[str, str]
    text: Callable[[Row], str]


def number(name: str, form: str, scale: float = 1.0) -> Callable[[Row], str]:
    """A field of a row through a format; nothing for None."""

    def text(row: Row) -> str:
        value = row.get(name)
        return "" if value is None else format(value * scale, form)

    return text


def ratio(name: str) -> Callable[[Row], str]:
    """How many times the baseline's speed."""

    def text(row: Row) -> str:
        value = row.get(name)
        return "" if value is None else f"{value:.2f}x"

    return text


def noise(name: str) -> Callable[[Row], str]:
    """Half the range over the rounds as a share of the median."""

    def text(row: Row) -> str:
        if row.get(name) is None:
            return ""
        half = (row[f"{name}_max"] - row[f"{name}_min"]) / 2 / row[name]
        return f"±{half:.0%}"

    return text


def variant_name(row: Row) -> str:
    """System, format and cache format."""
    cache = f" kv-{row['kv_cache_dtype']}" if row["kv_cache_dtype"] else ""
    return f"{row['system']} {row['format']}{cache}"


def failure(row: Row) -> str:
    """Who was not measured, and why."""
    if row["status"] == "missing":  # the reason names the system
        return str(row["reason"])
    return f"{variant_name(row)}: {row['reason']}"


def point_of(row: Row) -> tuple[Any, ...]:
    """What rows must share to be compared."""
    return tuple(row[k] for k in ("model", "threads", "batch", "prompt_tokens", "new_tokens"))


def point_name(row: Row) -> str:
    """The point for people."""
    threads = "1 thread" if row["threads"] == 1 else f"{row['threads']} threads"
    return (
        f"{row['model']} · batch {row['batch']} · {row['prompt_tokens']} + {row['new_tokens']} "
        f"tokens · {threads}"
    )


def grouped(rows: Sequence[Row]) -> list[list[Row]]:
    """Rows of one point together, in order of appearance."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(point_of(row), []).append(row)
    return list(groups.values())


COLUMNS = (
    Column(("first", "ms"), number("ttft_ms", ".1f")),
    Column(("prompt", "tok/s"), number("prefill_tok_s", ".0f")),
    Column(("of", "peak"), number("prefill_peak_fraction", ".2f")),
    Column(("p50", "ms"), number("itl_ms_p50", ".2f")),
    Column(("p90", "ms"), number("itl_ms_p90", ".2f")),
    Column(("p99", "ms"), number("itl_ms_p99", ".2f")),
    Column(("decode", "tok/s"), number("decode_tok_s", ".1f")),
    Column(("", ""), noise("decode_tok_s")),
    Column(("ratio", ""), ratio("decode_ratio")),
    Column(("read", "GB/s"), number("decode_gb_s", ".1f")),
    Column(("of", "limit"), number("decode_bandwidth_fraction", ".2f")),
    Column(("peak", "MB"), number("peak_memory_mb", ".0f")),
    Column(("load", "s"), number("load_s", ".2f")),
    Column(("cold", "s"), number("cold_start_s", ".2f")),
    Column(("perpl-", "exity"), number("perplexity", ".2f")),
)


def render(record: dict[str, Any]) -> str:
    """The whole table, with the limits above it and failures below their point."""
    parts = [_heading(record)]
    for rows in grouped(record["rows"]):
        parts.append(point_name(rows[0]))
        good = [row for row in rows if row["status"] == "ok"]
        if good:
            parts.append(_block(good))
        parts += [f"  {row['status']}: {failure(row)}" for row in rows if row["status"] != "ok"]
    if record["baseline"] and any(len(rows) > 1 for rows in grouped(record["rows"])):
        parts.append(f"ratio: decode speed over {record['baseline']}, within each round")
    parts += [text_note(label, text) for label, text in record["text"].items()]
    return "\n".join(parts)


def text_note(label: str, text: dict[str, Any]) -> str:
    """The protocol of the perplexities in one line."""
    return (
        f"perplexity of {label}: {text['tokens']} tokens ({text['bytes']} bytes) of "
        f"{text['file']}, context {text['context']}, stride {text['stride']}"
    )


def peak_note(peaks: Sequence[dict[str, Any]]) -> str:
    """The arithmetic peaks in one line; threads are named where they vary."""
    vary = len({peak["threads"] for peak in peaks}) > 1
    return " · ".join(
        f"{peak['format']} {peak['median']:,.0f}" + (f" ({peak['threads']} t)" if vary else "")
        for peak in peaks
    )


def _heading(record: dict[str, Any]) -> str:
    machine, limits = record["machine"], record["limits"]
    line = f"{machine['processor']}, {machine['cpus']} CPUs, {machine['isa']}"
    bandwidth = limits["read_bandwidth_gb_s"]
    if bandwidth:
        line += f"; reads {bandwidth['median']:.1f} GB/s"
        line += f" ({bandwidth['min']:.1f}-{bandwidth['max']:.1f})"
    if peaks := peak_note(limits["arithmetic_peak_gflop_s"]):
        line += f"; computes, in GFLOP/s, {peaks}"
    rounds = record["options"]["rounds"]
    return f"{line}; medians of {rounds} interleaved rounds"


def _block(rows: Sequence[Row]) -> str:
    cells = {column: [column.text(row) for row in rows] for column in COLUMNS}
    shown = [column for column in COLUMNS if any(cells[column])]
    heads = [["", *texts] for texts in zip(*(column.head for column in shown), strict=True)]
    lines = [
        [variant_name(row), *(cells[column][i] for column in shown)] for i, row in enumerate(rows)
    ]
    return text_table([*heads, *lines], "<>", indent="  ")
