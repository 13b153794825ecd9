"""Seeds of requests that bring none."""

from __future__ import annotations

import secrets


def fresh_seed() -> int:
    """A seed in [0, 2**64) from the operating system's entropy."""
    return secrets.randbits(64)
