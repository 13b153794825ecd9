"""What a search tried: loss against speed, and the border of the best."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gpt2fast.bench.svg_file import GRID, INK, MUTED, PAPER, save_svg
from gpt2fast.compress.budget import Budget
from gpt2fast.compress.search.search import TrialResult, pareto
from gpt2fast.errors import MissingDependencyError
from gpt2fast.files.atomic import staged_file

_ACCENT, _ACCENT_DARK = "#0b68cb", "#5aa9ff"
_LISTED = 16  # points whose recipe is told


def plot_pareto(
    tried: Sequence[TrialResult], chosen: TrialResult, budget: Budget, path: Path
) -> None:
    """Write ``path`` (SVG). Raises MissingDependencyError without matplotlib."""
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingDependencyError(
            "the Pareto plot needs matplotlib: pip install 'gpt2fast[compress]'"
        ) from None
    paper: Any = {
        "font.size": 10,
        "svg.fonttype": "none",
        "text.color": INK,
        **dict.fromkeys(("axes.edgecolor", "xtick.color", "ytick.color"), MUTED),
        "text.parse_math": False,  # a dollar in a name is a dollar
    }
    with rc_context(paper):
        rows = min(len(tried), _LISTED)
        figure = Figure(figsize=(8.0, 4.8 + 0.17 * rows), layout="constrained")
        axes = figure.subplots()
        _allowed(axes, budget)
        _points(axes, tried, chosen)
        _axes(axes, tried, budget)
        with staged_file(path) as stage:
            save_svg(figure, stage, {_ACCENT: _ACCENT_DARK})


def _allowed(axes: Any, budget: Budget) -> None:
    if budget.max_loss is not None:
        axes.axhline(budget.max_loss, color=MUTED, linestyle="--", linewidth=1)
        axes.annotate(
            f"allowed: {budget.max_loss:g} %",
            (1, budget.max_loss),
            xycoords=("axes fraction", "data"),
            xytext=(-4, 4),
            textcoords="offset points",
            ha="right",
            color=MUTED,
        )
    if budget.min_speedup is not None:
        axes.axvline(budget.min_speedup, color=MUTED, linestyle="--", linewidth=1)


def _points(axes: Any, tried: Sequence[TrialResult], chosen: TrialResult) -> None:
    front = pareto(tried)
    axes.plot(
        [t.measured.speedup for t in front],
        [t.measured.loss for t in front],
        color=_ACCENT,
        linewidth=1.2,
        zorder=2,
    )
    for item in tried:
        m = item.measured
        on_front, is_chosen = item in front, item == chosen
        axes.errorbar(
            m.speedup,
            m.loss,
            yerr=[[max(0.0, m.loss - m.loss_low)], [max(0.0, m.loss_high - m.loss)]],
            fmt="o",
            markersize=9 if is_chosen else 6,
            markerfacecolor=_ACCENT if is_chosen else PAPER,
            color=_ACCENT if on_front else MUTED,
            capsize=2,
            zorder=3,
        )
    _numbers(axes, tried, chosen)


def _numbers(axes: Any, tried: Sequence[TrialResult], chosen: TrialResult) -> None:
    """A number at each point, and below the axes what it stands for."""
    front = pareto(tried)
    rest = sorted((t for t in tried if t not in front), key=lambda t: t.measured.speedup)
    listed = [chosen, *[t for t in front if t != chosen], *[t for t in rest if t != chosen]]
    handles = []
    for number, item in enumerate(listed[:_LISTED], 1):
        m = item.measured
        axes.annotate(
            str(number),
            (m.speedup, m.loss),
            xytext=(7, 5),
            textcoords="offset points",
            fontsize=9,
            color=INK,
            zorder=4,
        )
        label = item.candidate.recipe.label + (" (chosen)" if item == chosen else "")
        handles += axes.plot([], [], " ", label=f"{number:2}  {label}")
    axes.legend(
        handles=handles,
        loc="upper left",
        bbox_to_anchor=(-0.07, -0.14),
        frameon=False,
        fontsize=8,
        handlelength=0,
        handletextpad=0,
        labelcolor=INK,
    )


def _axes(axes: Any, tried: Sequence[TrialResult], budget: Budget) -> None:
    losses = [t.measured.loss_high for t in tried]
    allowed = budget.max_loss or 0.0
    # One that lost everything would press all others onto the axis.
    if max(losses) > 20 * max(allowed, 1.0):
        axes.set_yscale("symlog", linthresh=max(allowed, 1.0))
    axes.set_xlabel("decoding, times the original in float32", color=INK)
    axes.set_ylabel("rise of perplexity, %", color=INK)
    axes.set_title(
        "Loss against speed of what was tried, with 95 % intervals; filled: chosen; "
        "blue: none is better in both",
        loc="left",
        color=INK,
        fontsize=9,
    )
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.margins(x=0.08, y=0.12)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
