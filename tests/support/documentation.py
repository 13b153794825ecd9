"""The blocks of README.md and docs/, and the commands in them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    "README.md",
    "CONTRIBUTING.md",
    *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md")),
]
SHELL = ("sh", "bash", "console")
# Shown and not run: trees, output, files whose readers have tests.
SHOWN = ("", "text", "json", "yaml")
_FENCE = re.compile(r"^( *)```(\w*)[^\n]*\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)
_COMMAND = re.compile(r" *(\$ .|gpt2fast [a-z]+ \S|python -m |pip install )")


@dataclass(frozen=True)
class Block:
    """One fenced block; ``line`` is that of its first line of text, from 1."""

    page: str
    line: int
    language: str
    text: str

    @property
    def commands(self) -> list[str]:
        """One string for each command: of a console, what follows a prompt."""
        lines = self.text.replace("\\\n", " ").splitlines()
        if self.language == "console":
            lines = [line[2:] for line in lines if line.startswith("$ ")]
        commands = [re.sub(r"(^|\s+)#\s.*", "", line) for line in lines]  # without comments
        return [each for each in commands if each.strip()]


def blocks_of(page: str) -> list[Block]:
    """All fenced blocks of ``page``, in its order."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return [
        Block(page, text.count("\n", 0, found.start(3)) + 1, found[2], found[3])
        for found in _FENCE.finditer(text)
    ]


def hidden_commands(page: str) -> list[str]:
    """Commands in blocks that say no language, or that are indented: these would not be tested."""
    shown = [each for each in blocks_of(page) if each.language in SHOWN]
    lines = [line for each in shown for line in each.text.splitlines()]
    prose = _FENCE.sub("", (ROOT / page).read_text(encoding="utf-8"))
    lines += [line for line in prose.splitlines() if line.startswith("    ")]
    return [line for line in lines if _COMMAND.match(line)]


def words_of(command: str) -> list[str]:
    """The words of one command."""
    return shlex.split(command, comments=True)


def gpt2fast_arguments(command: str) -> Iterator[list[str]]:
    """The arguments of each call of gpt2fast in ``command``, whatever stands before it."""
    words = words_of(command)
    for index, word in enumerate(words):
        if word == "gpt2fast" and (index == 0 or words[index - 1] == "-m"):
            yield words[index + 1 :]
