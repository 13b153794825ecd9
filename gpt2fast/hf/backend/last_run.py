"""Where the last call of an accelerated model ran."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

LAST_RUN = "_native_run"  # where a network keeps its own


@dataclass(frozen=True)
class LastRun:
    """What ``model.last_run`` says of a call of ``forward`` or ``generate``.

    Args:
        runner: "cpu" or "cuda", one of gpt2fast's, or "torch" for transformers' own network.
        reason: why it was "torch"; None otherwise.
    """

    runner: str
    reason: str | None = None


def note(network: Any, run: LastRun) -> None:
    """A call of ``network``, or of the model around it, ran as ``run`` says."""
    network.__dict__[LAST_RUN] = run
