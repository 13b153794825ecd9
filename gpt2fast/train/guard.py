"""Models that exist are not overwritten."""

from __future__ import annotations

from pathlib import Path

from gpt2fast.checkpoint import open_checkpoint
from gpt2fast.errors import OptionError
from gpt2fast.train.run_options import TextOptions
from gpt2fast.train.task import Task

_MODEL_FILES = (
    *("config.json", "model.safetensors", "model.safetensors.index.json"),
    *("pytorch_model.bin", "pytorch_model.bin.index.json", "tokenizer.json", "vocab.json"),
)


def refuse_training_in_place(task: Task) -> None:
    """Raise OptionError if ``--out`` is the directory of a model that the run starts from: it would
    be overwritten by the one that started from it."""
    out = task.options.out
    for flag, model in task.sources().items():
        with open_checkpoint(model) as checkpoint:
            source = checkpoint.path.resolve()
        if source == Path(out).resolve():
            raise OptionError(
                f"--out {out} is the model of {flag} {model}, which would be overwritten; choose "
                "another directory"
            )


def refuse_overwriting_model(options: TextOptions) -> None:
    """Raise OptionError if ``--out`` holds a model, for a run that is to start from step 0."""
    for name in _MODEL_FILES:
        if (Path(options.out) / name).exists():
            raise OptionError(
                f"--out {options.out} holds a model ({name}) but no checkpoint to go on from; it "
                "would be overwritten: choose another directory"
            )
