"""The tables of docs/benchmarks.md, from what benchmarks/readme.sh wrote or the committed rows.

python benchmarks/readme_tables.py build/bench
python benchmarks/readme_tables.py benchmarks/results
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Row = dict[str, Any]
FORMATS_OF_LLAMA_CPP = {"float16": "F16", "int8": "Q8_0", "int4": "Q4_0"}
NAMES = {"llama_cpp": "llama.cpp", "llama_cpp-flash": "llama.cpp, flash attention"}


def rows_of(root: Path, part: str) -> list[Row]:
    """The rows of one part that were measured; none where it was not run."""
    for path in (root / part / "rows.json", root / f"{part}.json"):
        if path.is_file():
            rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
            return [row for row in rows if row["status"] == "ok"]
    return []


def name_of(row: Row) -> str:
    """A row's system and format, as each system calls it."""
    system, kind = row["system"], row["format"]
    if system.startswith("llama_cpp"):
        kind = FORMATS_OF_LLAMA_CPP.get(kind, kind)
    system = NAMES.get(system, system)
    return f"**{system}** {kind}" if system == "gpt2fast" else f"{system} {kind}"


def table(header: list[str], lines: list[list[str]]) -> str:
    """One table in Markdown."""
    rows = [header, ["---"] * len(header), *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def fraction(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def decode(rows: list[Row]) -> str:
    """Batch 1."""
    lines = [
        [
            name_of(row),
            f"{row['ttft_ms']:.0f} ms",
            f"{row['decode_tok_s']:.0f} tok/s",
            f"{row['itl_ms_p50']:.1f} ms",
            fraction(row["decode_bandwidth_fraction"]),
            f"{row['peak_memory_mb']:,.0f} MB",
        ]
        for row in rows
    ]
    columns = ["first token", "decode", "median step", "of the read bandwidth", "peak memory"]
    return table(["", *columns], lines)


def prefill(rows: list[Row]) -> str:
    """Prompts of 512 tokens."""
    lines = [
        [name_of(row), f"{row['prefill_tok_s']:,.0f} tok/s", fraction(row["prefill_peak_fraction"])]
        for row in rows
    ]
    return table(["", "prompt of 512 tokens", "of the arithmetic peak"], lines)


def grid(rows: list[Row], column: str, heading: str) -> str:
    """Decoding speed against one dimension."""
    values = sorted({row[column] for row in rows})
    speeds: dict[str, dict[int, str]] = {}
    for row in rows:
        speeds.setdefault(name_of(row), {})[row[column]] = f"{row['decode_tok_s']:.0f} tok/s"
    lines = [[name, *(cells.get(each, "") for each in values)] for name, cells in speeds.items()]
    return table(["", *(heading.format(each) for each in values)], lines)


def tables(root: Path) -> Iterator[tuple[str, str]]:
    """The name of each part that was run, and its table."""
    for part in ("decode", "prefill", "batch", "context", "medium", "xl"):
        rows = rows_of(root, part)
        if not rows:
            continue
        if part == "prefill":
            yield part, prefill(rows)
        elif part == "batch":
            yield part, grid(rows, "batch", "batch {}")
        elif part == "context":
            yield part, grid(rows, "prompt_tokens", "prompt of {}")
        else:
            yield part, decode(rows)


if __name__ == "__main__":
    for part, text in tables(Path(sys.argv[1] if len(sys.argv) > 1 else "build/bench")):
        print(f"\n{part}\n\n{text}")
