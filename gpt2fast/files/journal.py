"""What long work keeps on the disk."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gpt2fast.errors import CheckpointError


@contextmanager
def damage_named(directory: Path) -> Iterator[None]:
    """Raise CheckpointError, naming ``directory``, where this part of the work cannot be read."""
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
            f"{directory}: is damaged ({reason}); delete it to do its work again"
        ) from None
