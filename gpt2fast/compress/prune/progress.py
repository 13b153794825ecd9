"""How a pass says what it is doing."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str], None]  # called with a line such as "neurons: block 3 of 12"


def quiet(_line: str) -> None:
    """Say nothing."""
