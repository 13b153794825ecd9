"""``metrics.jsonl``: what was measured at which step, one JSON object a line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


class MetricsLog:
    """Appends records; a resumed run first drops those beyond the step it resumes from."""

    def __init__(self, path: Path, resume_step: int) -> None:
        self.path = path
        kept = [record for record in self.read() if record["step"] <= resume_step]
        lines = [json.dumps(record) + "\n" for record in kept] if resume_step else []
        path.write_text("".join(lines), encoding="utf-8")

    def write(self, step: int, **values: float | int) -> None:
        """Append one record."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")

    def read(self) -> list[dict[str, Any]]:
        """All records so far. A last line that a crash cut short is dropped."""
        if not self.path.exists():
            return []
        whole, _, _ = self.path.read_text(encoding="utf-8").rpartition("\n")
        return [json.loads(line) for line in whole.splitlines()]
