"""A journal whose entries hold tensors: results of steps, and models between passes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from gpt2fast.files.journal import Journal, damage_named

_TENSORS = "tensors.safetensors"


class TensorJournal(Journal):
    """Entries of tensors and facts. Without a directory none is kept."""

    def keep(self, name: str, tensors: Mapping[str, Tensor], facts: Any = None) -> None:
        """Record ``tensors``, of any shapes, and ``facts``, which JSON can hold.

        Raises OptionError, naming the file, where they cannot be written.
        """

        def write(place: Path) -> None:
            save_file(
                {key: tensor.detach().contiguous() for key, tensor in tensors.items()},
                place / _TENSORS,
            )

        self.record(name, facts, write)

    def recall(self, name: str) -> tuple[dict[str, Tensor], Any] | None:
        """Tensors and facts of the entry ``name``; None where it was not recorded.

        Raises CheckpointError, naming its directory, where it is damaged.
        """
        if (place := self.find(name)) is None:
            return None
        with damage_named(place):
            return load_file(place / _TENSORS), self.facts(name)


NOTHING_KEPT = TensorJournal()
