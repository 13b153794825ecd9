"""Figures of matplotlib as SVG that takes the width it is given and the reader's theme."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

PAPER, INK, MUTED, GRID = "#ffffff", "#15181e", "#5b6370", "#e3e6eb"
DARK = {PAPER: "#161a21", INK: "#e8ebf0", MUTED: "#98a1b0", GRID: "#2a303a"}

_SVG = "http://www.w3.org/2000/svg"
_DECLARATION = '<?xml version="1.0" encoding="utf-8"?>'
_REFERENCE = re.compile(r"#([\w-]+)")
# matplotlib writes these as a rule for "*", which would hold for the whole page around the figure.
_LINES = "stroke-linejoin: round; stroke-linecap: butt"


@dataclass(frozen=True)
class Tips:
    """What is told where the mouse rests on a line, and on each of its markers."""

    line: str
    markers: Sequence[str] = ()


def save_svg(figure: Any, path: Path, dark: Mapping[str, str]) -> None:
    """Write ``figure``. On a dark page each colour that is a key of ``dark``, or above, gives way
    to its value."""
    root = _tree(figure, PAPER)
    style = ElementTree.Element(f"{{{_SVG}}}style")
    style.text = f"@media (prefers-color-scheme: dark) {{{dark_rules(dark)}}}"
    root.insert(0, style)
    path.write_text(f"{_DECLARATION}\n{_text(root)}\n", encoding="utf-8")


def inline_svg(figure: Any, label: str = "", tips: Mapping[str, Tips] | None = None) -> str:
    """An ``<svg>`` for a page, which has ``dark_rules`` for it. ``tips``: by gid of a line."""
    root = _tree(figure, "none")
    if label:
        root.attrib |= {"role": "img", "aria-label": label}
    else:
        root.set("aria-hidden", "true")
    for group in root.iter(f"{{{_SVG}}}g"):
        if tips and (found := tips.get(group.get("id", ""))):
            marks = group.iter(f"{{{_SVG}}}use")
            for mark, text in zip(marks, found.markers, strict=True):
                _add_title(mark, text)
            _add_title(group, found.line)
    _drop_ids(root)
    return _text(root)


def dark_rules(dark: Mapping[str, str]) -> str:
    """CSS that puts the values of ``dark``, and the dark colours above, in place of their keys."""
    return "".join(
        f'[style*="{kind}: {light}"]{{{kind}:{now} !important}}'
        for light, now in {**DARK, **dark}.items()
        for kind in ("fill", "stroke")
    )


def _tree(figure: Any, background: str) -> ElementTree.Element:
    written = io.StringIO()
    figure.savefig(written, format="svg", facecolor=background, metadata={"Date": None})
    root = ElementTree.fromstring(written.getvalue())
    # With a fixed size it would be cut off, or small, where the page is narrower or wider.
    for name in ("width", "height"):
        root.attrib.pop(name, None)
    root.set("style", _LINES)
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in (f"{{{_SVG}}}metadata", f"{{{_SVG}}}style"):
                parent.remove(child)
    return root


def _add_title(parent: ElementTree.Element, text: str) -> None:
    title = ElementTree.Element(f"{{{_SVG}}}title")
    title.text = text
    parent.insert(0, title)


def _drop_ids(root: ElementTree.Element) -> None:
    """Ids that nothing refers to: matplotlib gives the same ones to every figure of a page."""
    values = [value for each in root.iter() for value in each.attrib.values()]
    used = {name for value in values for name in _REFERENCE.findall(value)}
    for each in root.iter():
        if each.get("id") not in used:
            each.attrib.pop("id", None)


def _text(root: ElementTree.Element) -> str:
    ElementTree.register_namespace("", _SVG)
    ElementTree.register_namespace("xlink", "http://www.w3.org/1999/xlink")
    return ElementTree.tostring(root, encoding="unicode")
