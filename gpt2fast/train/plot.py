"""The loss curve of a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gpt2fast.files.atomic import staged_file


def plot_losses(records: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw training and held-out loss (nats/token) over the steps, and the learning rate, to a
    PNG file."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    train = [(r["step"], r["loss"]) for r in records if "loss" in r]
    held_out = [(r["step"], r["held_out_loss"]) for r in records if "held_out_loss" in r]
    rates = [(r["step"], r["lr"]) for r in records if "lr" in r]
    for points, label, style in ((train, "train", "C0-"), (held_out, "held out", "C1o-")):
        if points:
            steps, losses = zip(*points, strict=True)
            axes.plot(steps, losses, style, label=label, linewidth=1.2, markersize=3)
    axes.set(xlabel="step", ylabel="loss, nats/token")
    axes.grid(alpha=0.3)
    axes.legend(loc="upper right")
    if rates:
        right = axes.twinx()
        right.plot(*zip(*rates, strict=True), color="0.75", linewidth=1)
        right.set_ylabel("learning rate", color="0.5")
        axes.set_zorder(right.get_zorder() + 1)
        axes.set_frame_on(False)
    with staged_file(path) as stage:
        figure.savefig(stage, dpi=120, format="png")
