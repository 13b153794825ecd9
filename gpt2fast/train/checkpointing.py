"""Checkpoints of a run: written whole or not at all, and enough to go on bit for bit."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from gpt2fast.errors import OptionError

if TYPE_CHECKING:
    from accelerate import Accelerator

_PREFIX = "step-"
_STATE = "state.json"


def save_checkpoint(accelerator: Accelerator, directory: Path, step: int, keep: int) -> None:
    """Save weights, AdamW moments, gradient scale and every process's random state after ``step``
    steps. The schedule and the position in the data are functions of the step.

    The checkpoint appears under its final name by one rename; the oldest beyond ``keep`` go.
    """
    final, partial = directory / f"{_PREFIX}{step:08d}", directory / f".partial-{step:08d}"
    if accelerator.is_main_process:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    accelerator.wait_for_everyone()
    accelerator.save_state(str(partial), safe_serialization=True)
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        state = {"step": step, "processes": accelerator.num_processes}
        (partial / _STATE).write_text(json.dumps(state) + "\n", encoding="utf-8")
        shutil.rmtree(final, ignore_errors=True)
        os.replace(partial, final)
        for old in _complete(directory)[:-keep]:
            shutil.rmtree(old)
    accelerator.wait_for_everyone()


def load_checkpoint(accelerator: Accelerator, directory: Path) -> int:
    """Load the last complete checkpoint and return its number of steps.

    Raises OptionError if there is none, or if it was written by another number of processes.
    """
    complete = _complete(directory)
    if not complete:
        raise OptionError(f"--resume: {directory} holds no complete checkpoint; start without it")
    state = json.loads((complete[-1] / _STATE).read_text(encoding="utf-8"))
    if state["processes"] != accelerator.num_processes:
        raise OptionError(
            f"--resume: {complete[-1]} was written by {state['processes']} process(es), not "
            f"{accelerator.num_processes}; launch as many again"
        )
    accelerator.load_state(str(complete[-1]))
    return int(state["step"])


def _complete(directory: Path) -> list[Path]:
    if not directory.is_dir():
        return []
    return sorted(d for d in directory.glob(f"{_PREFIX}*") if (d / _STATE).is_file())
