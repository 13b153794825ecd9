"""Prints the README's tables from what benchmarks/readme.sh wrote.

python benchmarks/readme_tables.py build/bench
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

Row = dict[str, Any]


def rows_of(root: Path, part: str) -> list[Row]:
    """The rows of one part that were measured; none where it was not run."""
    path = root / part / "rows.json"
    record = json.loads(path.read_text()) if path.is_file() else {"rows": []}
    return [row for row in record["rows"] if row["status"] == "ok"]


def show(title: str, header: list[str], lines: list[list[str]]) -> None:
    """One table in Markdown."""
    if lines:
        print(f"\n{title}\n\n| {' | '.join(header)} |\n|{'---|' * len(header)}")
        print("\n".join(f"| {' | '.join(line)} |" for line in lines))


def fraction(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def decode(root: Path, part: str) -> None:
    """Batch 1."""
    lines = [
        [
            f"{row['system']} {row['format']}",
            f"{row['ttft_ms']:.0f} ms",
            f"{row['decode_tok_s']:.0f} tok/s",
            fraction(row["decode_bandwidth_fraction"]),
            f"{row['peak_memory_mb']:.0f} MB",
        ]
        for row in rows_of(root, part)
    ]
    show(f"{part}: batch 1", ["", "first token", "decode", "of bandwidth", "peak memory"], lines)


def prefill(root: Path) -> None:
    """Prompts of 512."""
    lines = [
        [
            f"{row['system']} {row['format']}",
            f"{row['prefill_tok_s']:.0f} tok/s",
            fraction(row["prefill_peak_fraction"]),
        ]
        for row in rows_of(root, "prefill")
    ]
    show("prefill", ["", "512 tokens", "of arithmetic peak"], lines)


def grid(root: Path, part: str, column: str) -> None:
    """Decoding speed against one dimension."""
    rows = rows_of(root, part)
    values = sorted({row[column] for row in rows})
    table: dict[str, dict[int, str]] = {}
    for row in rows:
        cells = table.setdefault(f"{row['system']} {row['format']}", {})
        cells[row[column]] = f"{row['decode_tok_s']:.0f}"
    lines = [[name, *(cells.get(v, "") for v in values)] for name, cells in table.items()]
    show(f"{part}: tok/s", ["", *(f"{column} {value}" for value in values)], lines)


def main() -> None:
    """All tables."""
    root = Path(sys.argv[1] if len(sys.argv) > 1 else "build/bench")
    for part in ("decode", "medium", "xl"):
        decode(root, part)
    prefill(root)
    grid(root, "batch", "batch")
    grid(root, "context", "prompt_tokens")


if __name__ == "__main__":
    main()
