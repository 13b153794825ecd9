"""Checkpoints of a run: written whole or not at all, and enough to go on bit for bit."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpt2fast.errors import CheckpointError, OptionError
from gpt2fast.files.atomic import discard, staged_directory
from gpt2fast.files.disk import check_place, check_room, clear_write_errors
from gpt2fast.files.json_file import read_json_object, write_json

if TYPE_CHECKING:
    from accelerate import Accelerator

CHECKPOINTS = "checkpoints"  # directory below --out
_PREFIX = "step-"
_STATE = "state.json"
_BLOCK = 2**20


def check_room_for_run(out: str, num_parameters: int, keep: int) -> None:
    """Raise OptionError unless ``out`` can be written to and has room for ``keep`` checkpoints and
    the model. Writes nothing."""
    place = check_place(out, "--out")
    # A checkpoint holds weights and two moments in fp32; one more exists while it is being written.
    needed = num_parameters * 4 * (3 * (keep + 1) + 1)
    check_room(place, needed, f"--out {out}", " for checkpoints and model", "lower --keep")


def save_checkpoint(accelerator: Accelerator, directory: Path, step: int, keep: int) -> None:
    """Save weights, AdamW moments, gradient scale and every process's random state after ``step``
    steps. The schedule and the position in the data are functions of the step.

    The checkpoint appears under its final name by one rename; the oldest beyond ``keep`` go.
    Raises OptionError, naming the file, where one cannot be written.
    """
    final = directory / f"{_PREFIX}{step:08d}"
    with _common_stage(accelerator, final) as stage:
        accelerator.save_state(str(stage), safe_serialization=True)
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            state = {
                "step": step,
                "processes": accelerator.num_processes,
                "threads": _threads(),
                "sha256": {file.name: _digest(file) for file in sorted(stage.iterdir())},
            }
            write_json(stage / _STATE, state)
    if accelerator.is_main_process:
        for old in _complete(directory)[:-keep]:
            discard(old)
    accelerator.wait_for_everyone()


@contextmanager
def _common_stage(accelerator: Accelerator, final: Path) -> Iterator[Path]:
    """The main process's stage of ``final``, whose name it tells the others."""
    from accelerate.utils import broadcast_object_list

    mine = staged_directory(final, replace=True) if accelerator.is_main_process else nullcontext()
    with mine as stage:
        (name,) = broadcast_object_list([str(stage)])
        with clear_write_errors(Path(name), final):
            yield Path(name)


def latest_checkpoint(directory: Path) -> Path | None:
    """The last complete checkpoint in ``directory``, or None."""
    complete = _complete(directory)
    return complete[-1] if complete else None


def load_checkpoint(accelerator: Accelerator, checkpoint: Path) -> int:
    """Load ``checkpoint`` and return its number of steps. Warns where going on bit for bit cannot
    be promised.

    Raises OptionError if it was written by another number of processes, CheckpointError, naming the
    file, if it is damaged.
    """
    state = _read_state(checkpoint / _STATE)
    if state["processes"] != accelerator.num_processes:
        raise OptionError(
            f"{checkpoint} was written by {state['processes']} process(es), not "
            f"{accelerator.num_processes}; launch as many again"
        )
    _verify(checkpoint, state.get("sha256"))
    threads = state.get("threads", _threads())
    if threads != _threads() and accelerator.device.type == "cpu":
        warnings.warn(
            f"the run had {threads} thread(s), now it has {_threads()}; it goes on, but not bit "
            "for bit",
            stacklevel=2,
        )
    try:
        accelerator.load_state(str(checkpoint))
    except Exception as error:  # safetensors, pickle and torch each have errors of their own
        raise CheckpointError(
            f"{checkpoint}: cannot be loaded ({error}); {_advice(checkpoint)}"
        ) from None
    return int(state["step"])


def _verify(checkpoint: Path, digests: dict[str, str] | None) -> None:
    if digests is None:
        warnings.warn(
            f"{checkpoint} carries no checksums; whether it is whole cannot be told", stacklevel=3
        )
        return
    for name, digest in digests.items():
        file = checkpoint / name
        fault = "is missing" if not file.is_file() else "is damaged"
        if not file.is_file() or _digest(file) != digest:
            raise CheckpointError(f"{file} {fault}; {_advice(checkpoint)}")


def _advice(checkpoint: Path) -> str:
    return f"restore it, or delete {checkpoint} to go on from the checkpoint before it, if any"


def _read_state(path: Path) -> dict[str, Any]:
    try:
        state = read_json_object(path)
        if isinstance(state["step"], int) and isinstance(state["processes"], int):
            return state
    except (CheckpointError, KeyError):
        pass
    raise CheckpointError(f"{path} is damaged; {_advice(path.parent)}")


def _digest(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _threads() -> int:
    import torch

    return torch.get_num_threads()


def _complete(directory: Path) -> list[Path]:
    if not directory.is_dir():
        return []
    return sorted(d for d in directory.glob(f"{_PREFIX}*") if (d / _STATE).is_file())
