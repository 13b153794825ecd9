"""What long work has done, on the disk by name, so that an interruption loses one entry at most.

An entry is a directory that appears whole, by one rename: ``facts.json``, and files beside it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gpt2fast.errors import CheckpointError
from gpt2fast.files.atomic import discard, staged_directory
from gpt2fast.files.json_file import write_json

_FACTS = "facts.json"


class Journal:
    """Entries by name in ``directory``, which is made when the first is recorded; None keeps none.

    Names are names of files. Whoever resumes must ask for the same names.
    """

    def __init__(self, directory: Path | None = None) -> None:
        self._directory = directory

    def names(self) -> list[str]:
        """The names of all entries, sorted."""
        found = self._directory.glob(f"*/{_FACTS}") if self._directory is not None else ()
        return sorted(path.parent.name for path in found if not path.parent.name.startswith("."))

    def find(self, name: str) -> Path | None:
        """The directory of the entry ``name``; None where it was not recorded."""
        if self._directory is None or not (self._directory / name).is_dir():
            return None
        return self._directory / name

    def record(
        self, name: str, facts: Any = None, write: Callable[[Path], object] | None = None
    ) -> None:
        """Keep an entry, in place of one of the same ``name``: ``facts``, which JSON can hold, and
        the files that ``write`` makes in the directory it is called with.

        Raises OptionError, naming the file, where it cannot be written.
        """
        if self._directory is None:
            return
        with staged_directory(self._directory / name, replace=True) as stage:
            if write is not None:
                write(stage)
            write_json(stage / _FACTS, facts)

    def facts(self, name: str) -> Any:
        """The facts of the entry ``name``, which is there. Raises CheckpointError, naming its
        directory, where it is damaged."""
        assert self._directory is not None
        with damage_named(self._directory / name):
            return json.loads((self._directory / name / _FACTS).read_text(encoding="utf-8"))

    def remove(self, name: str) -> None:
        """Forget the entry ``name``; one that is not there is passed over."""
        if (place := self.find(name)) is not None:
            discard(place)


@contextmanager
def damage_named(place: Path) -> Iterator[None]:
    """Raise CheckpointError, naming ``place``, where what was recorded there cannot be read."""
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:
        own = type(error).__name__ == "SafetensorError"  # which has no public name
        if not own and not isinstance(
            error, (KeyError, RuntimeError, OSError, TypeError, ValueError)
        ):
            raise
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(
            f"{place}: is damaged ({reason}); delete it to do its work again"
        ) from None
