"""Text that others chose (names of models, paths, commands), in Markdown and as nothing else."""

from __future__ import annotations

import re

_PUNCTUATION = re.compile(r"([\\`*_{}\[\]<>#|&~!$])")  # what could begin markup or HTML
_SPACES = re.compile(r"[\s\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]+")


def inline(text: str) -> str:
    """``text`` in a line of prose, a heading or a cell of a table."""
    return _PUNCTUATION.sub(r"\\\1", _one_line(text))


def code(text: str) -> str:
    """``text`` as a code span, which no backtick in it ends; in a table, too."""
    line = _one_line(text).replace("|", "\\|")
    longest = max(map(len, re.findall("`+", line)), default=0)
    fence, pad = "`" * (longest + 1), " " if line.startswith("`") or line.endswith("`") else ""
    return f"{fence}{pad}{line}{pad}{fence}" if line else "` `"


def code_block(text: str) -> str:
    """``text`` as an indented block of code; its lines stay lines."""
    return "\n".join(f"    {_one_line(line)}" for line in text.splitlines())


def _one_line(text: str) -> str:
    return _SPACES.sub(" ", text).strip()
