"""The end of a run: ``training.json``, which is written last and says that all is done."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gpt2fast.errors import CheckpointError, OptionError
from gpt2fast.files.json_file import read_json_object
from gpt2fast.train.task import Task

RECORD = "training.json"
_FILES = (RECORD, "model.safetensors", "config.json")


def finished_record(task: Task) -> dict[str, Any] | None:
    """The record of the run in ``--out`` if it is the one that ``task`` asks for and has reached
    its last step; else None."""
    options = task.options
    out = Path(options.out)
    if not all((out / name).is_file() for name in _FILES):
        return None
    try:
        record = read_json_object(out / RECORD)
        recorded = dict(record["options"])
        options.check_resumes(recorded)
    except (CheckpointError, OptionError, KeyError, TypeError, ValueError):
        return None  # of another run, or no record at all
    last = min(options.steps, options.stop_at or options.steps)
    is_same = record.get("steps") == last and recorded.get("dtype") == options.dtype
    if not is_same or any(record.get(name) != fact for name, fact in task.facts().items()):
        return None
    return record
