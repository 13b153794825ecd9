"""``metrics.jsonl``: what was measured at which step, one JSON object a line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from gpt2fast.errors import CheckpointError
from gpt2fast.files.atomic import staged_file
from gpt2fast.files.disk import clear_write_errors


class MetricsLog:
    """Appends records; a resumed run first drops those beyond the step it resumes from."""

    def __init__(self, path: Path, resume_step: int) -> None:
        self.path = path
        records = self.read() if resume_step else []
        # What is held out is evaluated after the checkpoint, so that it will be evaluated again.
        kept = [r for r in records if (r["step"], "held_out_loss" in r) <= (resume_step, False)]
        lines = [json.dumps(record) + "\n" for record in kept]
        with staged_file(path) as stage:
            stage.write_text("".join(lines), encoding="utf-8")

    def write(self, step: int, **values: float | int) -> None:
        """Append one record."""
        with clear_write_errors(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")

    def read(self) -> list[dict[str, Any]]:
        """All records so far. A last line that a crash cut short is dropped; CheckpointError for
        any other that is damaged."""
        if not self.path.exists():
            return []
        whole, _, _ = self.path.read_bytes().rpartition(b"\n")
        try:
            records = [json.loads(line) for line in whole.splitlines()]
            if all(isinstance(record["step"], int) for record in records):
                return records
        except (ValueError, KeyError, TypeError):
            pass
        raise CheckpointError(f"{self.path} is damaged; restore it, or move it away to go on")
