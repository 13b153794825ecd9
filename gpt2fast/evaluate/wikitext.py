"""WikiText as the two usual protocols read it.

The release is tokenized: words and punctuation stand apart, and " @-@ " is a hyphen. The rules are
those of lm-evaluation-harness' task ``wikitext`` (version 2.0), quirks and all: figures are
comparable only where the text is the same to the byte.
"""

from __future__ import annotations

import re

# In this order. The second is an oddity of the harness that next to no text contains.
_CONTRACTIONS = [("s '", "s'")]
_ODDITY = re.compile(r"/' [0-9]/"), "/'[0-9]/"
_JOINED = [(f" @{sign}@ ", sign) for sign in "-,."] + [
    (f" {sign} ", f"{sign} ") for sign in ":;.!?,"
]
_ENCLOSED = [
    (re.compile(rf"{first}\s*([^{last}]*?)\s*{last}"), rf"{plain[0]}\1{plain[1]}")
    for first, last, plain in (
        (r"\(", r"\)", "()"),
        (r"\[", r"\]", "[]"),
        ("{", "}", "{}"),
        ('"', '"', '""'),
        ("'", "'", "''"),
    )
]
_REST = [
    ("= = = =", "===="),
    ("= = =", "==="),
    ("= =", "=="),
    (" ° ", "°"),
    (" \n", "\n"),
    ("\n ", "\n"),
    (" N ", " 1 "),
    (" 's", "'s"),
]


def detokenize(page: str) -> str:
    """``page`` as prose."""
    page = _replace(page, _CONTRACTIONS)
    page = _ODDITY[0].sub(_ODDITY[1], page)
    page = _replace(page, _JOINED)
    for pattern, plain in _ENCLOSED:
        page = pattern.sub(plain, page)
    return _replace(page, _REST)


def _replace(text: str, pairs: list[tuple[str, str]]) -> str:
    for old, new in pairs:
        text = text.replace(old, new)
    return text


def pages(text: str) -> list[str]:
    """The articles: a line " = Title = " begins one. Newlines between them belong to neither."""
    found: list[str] = []
    lines: list[str] = []
    for line in text.split("\n"):
        if _is_title(line):
            found.append("\n".join(lines))
            lines = []
        lines.append(line)
    return [page for page in [*found, "\n".join(lines)] if page.strip()]


def _is_title(line: str) -> bool:
    plain = line.replace("= = =", "===").replace("= =", "==").strip()
    return plain.startswith("= ") and plain.endswith(" =")


def rows(text: str) -> str:
    """What transformers' script reads: the lines, their newlines kept and blank ones emptied, with
    a blank line between each two (the rows of the data set ``wikitext-2-raw-v1``, joined)."""
    return "\n\n".join(line if line.strip() else "" for line in text.splitlines(keepends=True))
