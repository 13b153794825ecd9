"""What the steps of a pass found, on the disk, so that an interruption loses one step at most."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from gpt2fast.files.atomic import staged_directory
from gpt2fast.files.journal import damage_named

_TENSORS, _FACTS = "tensors.safetensors", "facts.json"


class Steps:
    """Results of steps by name, each of which appears whole; without a ``directory`` none is kept.

    A pass must ask for its steps in the same order with the same names whenever it is run on the
    same model and text.
    """

    def __init__(self, directory: Path | None = None) -> None:
        self._directory = directory

    def recall(self, name: str) -> tuple[dict[str, Tensor], Any] | None:
        """Tensors and facts of the step ``name``; None where it was not finished.

        Raises CheckpointError, naming the directory, where it is damaged.
        """
        if self._directory is None or not (place := self._directory / name).is_dir():
            return None
        with damage_named(place):
            facts = json.loads((place / _FACTS).read_text(encoding="utf-8"))
            return load_file(place / _TENSORS), facts

    def keep(self, name: str, tensors: Mapping[str, Tensor], facts: Any = None) -> None:
        """The step ``name`` is done: ``tensors``, and ``facts`` that JSON can hold."""
        if self._directory is None:
            return
        with staged_directory(self._directory / name, replace=True) as stage:
            save_file({k: v.detach().contiguous() for k, v in tensors.items()}, stage / _TENSORS)
            (stage / _FACTS).write_text(json.dumps(facts), encoding="utf-8")


NO_STEPS = Steps()  # nothing is kept
