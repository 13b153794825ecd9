"""Figures of matplotlib as SVG files that take the width they are given and the reader's theme."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

PAPER, INK, MUTED, GRID = "#ffffff", "#1c2024", "#60646c", "#e4e6ea"
_DARK = {PAPER: "#161a21", INK: "#e8ebf0", MUTED: "#98a1b0", GRID: "#2a303a"}


def save_svg(figure: Any, path: Path, dark: Mapping[str, str]) -> None:
    """Write ``figure``. On a dark page each colour that is a key of ``dark``, or above, gives way
    to its value."""
    written = io.StringIO()
    figure.savefig(written, format="svg", facecolor=PAPER)
    # With a fixed size it would be cut off, or small, where the page is narrower or wider.
    svg = re.sub(r'(<svg\b[^>]*?) width="[^"]*" height="[^"]*"', r"\1", written.getvalue(), count=1)
    rules = "".join(
        f'[style*="{kind}: {light}"]{{{kind}:{now} !important}}'
        for light, now in {**_DARK, **dark}.items()
        for kind in ("fill", "stroke")
    )
    style = f"<style>@media (prefers-color-scheme: dark) {{{rules}}}</style>"
    path.write_text(re.sub(r"(<svg\b[^>]*>)", rf"\1\n {style}", svg, count=1), encoding="utf-8")
