"""Text that others wrote (prompts, models, files), on its way to a terminal that would obey it."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TextIO

_KEPT = {ord("\n"), ord("\t")}
_CONTROLS = [*range(0x20), *range(0x7F, 0xA0)]  # C0, DEL, C1: escape sequences begin with these
_BIDIRECTIONAL = [*range(0x202A, 0x202F), *range(0x2066, 0x206A)]  # show text in another order
_SEPARATORS = [0x2028, 0x2029]  # some terminals take them for line breaks
_ESCAPES = {
    code: f"\\x{code:02x}" if code < 0x20 else f"\\u{code:04x}"
    for code in (*_CONTROLS, *_BIDIRECTIONAL, *_SEPARATORS)
    if code not in _KEPT
}


def escape(text: str) -> str:
    r"""``text`` with control characters but newlines and tabs as ``\x1b`` and the like.

    JSON remains JSON: it has no characters below U+0020, and the others become its own escapes.
    """
    return text.translate(_ESCAPES)


def escape_for(stream: TextIO, text: str) -> str:
    """``escape(text)`` where ``stream`` is a terminal; else, for programs, ``text`` as it is."""
    return escape(text) if stream.isatty() else text


def text_table(rows: Sequence[Sequence[str]], align: str, indent: str = "") -> str:
    """Rows of cells in columns as wide as their longest, a row a line, whatever a terminal's width.

    ``align`` has "<" or ">" for each column, and its last one may stand for more.
    """
    # A name may hold line breaks, which would begin rows of their own.
    cells = [[" ".join(cell.splitlines()) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    sides = align.ljust(len(widths), align[-1])
    form = indent + "  ".join(
        f"{{:{side}{width}}}" for side, width in zip(sides, widths, strict=True)
    )
    return "\n".join(form.format(*row).rstrip() for row in cells)


def say(line: str) -> None:
    """Print a line to standard error, escaped for a terminal; where nobody listens, there is
    nobody to tell."""
    try:
        print(escape_for(sys.stderr, line), file=sys.stderr, flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
