"""How a pass or a search reports what it is doing."""

from __future__ import annotations

from collections.abc import Callable

ProgressCallback = Callable[[str], None]  # called with a line such as "neurons: block 3 of 12"


def quiet(_line: str) -> None:
    """Report nothing."""
