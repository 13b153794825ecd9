"""The finished artifact, from the work directory to where it was asked for."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from gpt2fast.compress.trial import HISTORY
from gpt2fast.train.disk import clear_disk_errors

_AGAIN = "repeat the command: what is done is kept"


def deliver(artifact: Path, out: Path) -> None:
    """By one rename, after a copy where the two are on different disks. Raises OptionError, naming
    ``out``, where that cannot be; ``artifact`` is still whole then."""
    with clear_disk_errors(str(out), "OUT", _AGAIN):
        out.parent.mkdir(parents=True, exist_ok=True)
        if artifact.stat().st_dev == out.parent.stat().st_dev:
            _rename(artifact, out)
        else:
            _copy(artifact, out)
        (out / HISTORY).unlink(missing_ok=True)  # the report has it


def _copy(artifact: Path, out: Path) -> None:
    stage = out.with_name(f".{out.name}.partial")
    shutil.rmtree(stage, ignore_errors=True)
    try:
        stage.mkdir()
        for file in sorted(artifact.iterdir()):
            shutil.copyfile(file, stage / file.name)
        _rename(stage, out)
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def _rename(directory: Path, out: Path) -> None:
    if out.is_dir():
        out.rmdir()  # an empty one, which check_out() lets pass
    os.replace(directory, out)
