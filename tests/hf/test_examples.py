"""The examples of docs/transformers print the same text with one line changed."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from gpt2fast.checkpoint.resolve import resolve

EXAMPLES = Path(__file__).resolve().parents[2] / "docs" / "transformers"
TEXTS = [
    "def read_lines(path):",
    "import",
    "class Parser:\n    def __init__(self, text, position=0):",
    "except (OSError, ValueError) as error:",
    "for name in sorted(names):\n        print(name)",
    "sorted names for in print",
]
# Script, class, arguments, and how many lines it prints at least.
CASES = [
    ("generate.py", "GPT2LMHeadModel", TEXTS[:3], 20),
    ("sentence_scoring.py", "GPT2LMHeadModel", [*TEXTS, "--batch-size", "4"], 7),
    ("classification.py", "GPT2ForSequenceClassification", [*TEXTS, "--num-labels", "3"], 6),
]
MARK = "==> "
NUMBER = re.compile(r"-?\d+\.\d+")
# One process for all scripts of a folder: most of the time is that of imports.
RUN_ALL = f"""
import json, os, runpy, sys
for call in json.loads(sys.argv[1]):
    print({MARK!r} + os.path.basename(call[0]))
    sys.argv = call
    runpy.run_path(call[0], run_name="__main__")
"""


def with_our_class(source: str, name: str) -> str:
    """``source`` with ``name`` imported from gpt2fast.hf in place of transformers."""

    def without(line: re.Match[str]) -> str:
        others = [each for each in line[1].split(", ") if each != name]
        return f"from transformers import {', '.join(others)}\nfrom gpt2fast.hf import {name}\n"

    changed, count = re.subn(rf"from transformers import (.*\b{name}\b.*)\n", without, source)
    assert count == 1
    return changed


def start(folder: Path) -> subprocess.Popen[str]:
    """The scripts in ``folder``, each as if called by its own command line."""
    calls = [[str(folder / case[0]), str(resolve("demo")), *case[2]] for case in CASES]
    return subprocess.Popen(
        [sys.executable, "-c", RUN_ALL, json.dumps(calls)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},  # nothing has to be asked there
    )


def test_one_line_changes_and_the_text_does_not(tmp_path: Path) -> None:
    for script, name, *_ in CASES:
        source = (EXAMPLES / script).read_text(encoding="utf-8")
        (tmp_path / script).write_text(with_our_class(source, name), encoding="utf-8")
    running = [start(folder) for folder in (EXAMPLES, tmp_path)]
    (want, _), (found, words) = (each.communicate(timeout=300) for each in running)
    assert [each.returncode for each in running] == [0, 0], words
    # A figure that is printed with one decimal may be at its edge.
    assert NUMBER.split(found) == NUMBER.split(want)
    numbers = [[float(each) for each in NUMBER.findall(text)] for text in (found, want)]
    assert numbers[0] == pytest.approx(numbers[1], rel=1e-3, abs=0.11)
    assert "gpt2fast leaves" not in words  # to transformers, that is
    parts = [part.splitlines() for part in want.split(MARK)[1:]]
    assert [part[0] for part in parts] == [case[0] for case in CASES]
    for lines, (*_, least) in zip(parts, CASES, strict=True):
        assert len(lines) > least
