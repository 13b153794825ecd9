"""The finished artifact, from the work directory to where it was asked for."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from gpt2fast.checkpoint import Checkpoint
from gpt2fast.checkpoint.digest import weights_digest
from gpt2fast.compress.options import CompressOptions
from gpt2fast.compress.search.evaluate_candidate import HISTORY
from gpt2fast.errors import CheckpointError
from gpt2fast.files.atomic import discard, staged_directory
from gpt2fast.files.disk import clear_write_errors
from gpt2fast.files.json_file import read_json_object

REPORT = "report.json"


def deliver(artifact: Path, out: Path) -> None:
    """By one rename, after a copy where the two are on different disks. Raises OptionError, naming
    ``out``, where that cannot be; ``artifact`` is still whole then."""
    (artifact / HISTORY).unlink(missing_ok=True)  # the report has it
    with clear_write_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        if _on_one_disk(artifact, out.parent):
            os.replace(artifact, out)
            return
    with staged_directory(out) as stage:
        for file in sorted(artifact.iterdir()):
            shutil.copyfile(file, stage / file.name)


def _on_one_disk(artifact: Path, parent: Path) -> bool:
    return artifact.stat().st_dev == parent.stat().st_dev


def delivered(options: CompressOptions, checkpoint: Checkpoint) -> dict[str, Any] | None:
    """The report in OUT, if it is what ``options`` ask for, of these weights; what may be left of
    its work is removed."""
    try:
        report = read_json_object(options.out / REPORT)
        original = report["original"]["weights_sha256"]
    except (CheckpointError, KeyError, TypeError):
        return None
    is_same = report.get("request") == options.request()
    if not is_same or original != weights_digest(checkpoint):
        return None
    if (options.work_directory / "work.json").is_file():
        discard(options.work_directory)
    return report
