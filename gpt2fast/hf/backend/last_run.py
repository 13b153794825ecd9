"""Where the last call of an accelerated model ran."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

LAST_RUN = "_gpt2fast_last_run"  # attribute of a network


@dataclass(frozen=True)
class LastRun:
    """Where a call of ``forward`` or ``generate`` ran; the value of ``model.last_run``.

    Args:
        runner: "cpu" or "cuda" for gpt2fast's runners, "torch" for transformers' own network.
        reason: why it was "torch"; None otherwise.
    """

    runner: str
    reason: str | None = None


def record_run(network: Any, run: LastRun) -> None:
    """Set ``last_run`` of ``network`` and of the model around it."""
    network.__dict__[LAST_RUN] = run
