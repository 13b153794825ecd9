"""Colours and markers, the same in every chart of a report: a hue for each system, a shade and a
marker for each format. Where there is one system, each format has a hue."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gpt2fast.bench.table import variant_name

# Distinct for readers with impaired colour vision, too; for white paper, and for a dark page.
_HUES = (
    ("#0b6bcb", "#4da3ff"),
    ("#c9540a", "#ff9440"),
    ("#0a8a63", "#35cf9c"),
    ("#b4237f", "#f06dbe"),
    ("#6b4fc9", "#a389ff"),
    ("#8a6d00", "#d9b42f"),
    ("#5c6670", "#a3aeb9"),
    ("#c22f2f", "#ff7373"),
)
_FORMATS = ("float32", "float16", "bfloat16", "int8", "int4", "int3", "stored")
_MARKERS = ("o", "v", "s", "^", "D", "<", "P")
# Towards black (negative) or white, for white paper; on a dark page the other way round.
_SHADES = (-0.42, -0.22, -0.12, 0.12, 0.42, 0.6, -0.6)


@dataclass(frozen=True)
class Style:
    """``name`` is a CSS class; ``marker`` is in matplotlib's letters."""

    name: str
    light: str
    dark: str
    marker: str


def make_styles(record: dict[str, Any]) -> dict[str, Style]:
    """For the name of each variant in a record."""
    rows = record["rows"]
    known = list(dict.fromkeys((variant_name(r), r["system"], r["format"]) for r in rows))
    systems = list(dict.fromkeys(system for _, system, _ in known))
    found = {}
    for i, (label, system, fmt) in enumerate(known):
        place = _FORMATS.index(fmt)
        only = len(systems) == 1
        light, dark = _HUES[(i if only else systems.index(system)) % len(_HUES)]
        has_one = sum(other == system for _, other, _ in known) == 1
        shade = 0.0 if only or has_one else _SHADES[place]
        found[label] = Style(f"c{i}", _mix(light, shade), _mix(dark, -0.7 * shade), _MARKERS[place])
    return found


def _mix(colour: str, share: float) -> str:
    """``colour`` moved by ``share`` of the way to white, or to black where negative."""
    target = 255 if share > 0 else 0
    parts = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return "#" + "".join(f"{round(p + abs(share) * (target - p)):02x}" for p in parts)
