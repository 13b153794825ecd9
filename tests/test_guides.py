"""What stands in the guides runs: their Python on the bundled model, their commands through the
parser, their recipes through the reader."""

from __future__ import annotations

import importlib
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from gpt2fast.cli.dispatch import COMMANDS
from gpt2fast.cli.parser import parse_arguments

DOCS = Path(__file__).resolve().parents[1] / "docs"
GUIDES = [
    "bench",
    "checkpoints",
    "compression",
    "engine",
    "evaluation",
    "export",
    "quantization",
    "training",
]
# Those that need torch; export's are run by tests/export/test_documentation.py.
RUN = ["checkpoints", "compression", "evaluation", "quantization"]
SMALLER = {'"gpt2"': '"demo"', "windows=64, length=512": "windows=4, length=64"}


def blocks(page: str, language: str) -> list[str]:
    text = (DOCS / f"{page}.md").read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def commands(page: str) -> list[list[str]]:
    """Calls of gpt2fast in blocks, whether fenced or indented, without what the shell does."""
    lines = (DOCS / f"{page}.md").read_text(encoding="utf-8").splitlines()
    calls = [re.sub(r"^ *(\$ )?", "", line) for line in lines if not line.startswith("|")]
    return [shlex.split(call, comments=True)[1:] for call in calls if call.startswith("gpt2fast ")]


@pytest.mark.parametrize("page", GUIDES)
def test_every_name_is_defined(page: str) -> None:
    """Of each page's blocks one after the other: a later one may use what an earlier one made."""
    script = "\n".join(blocks(page, "python"))
    assert bool(script) == (page not in ("bench", "engine", "training")), "blocks are fenced"
    done = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "F821,E9", "-"],
        input=script, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("page", RUN)
def test_the_python_runs(page: str, tmp_path: Path) -> None:
    if page == "compression":
        pytest.importorskip("torch")
    script = "\n".join(blocks(page, "python"))
    for large, small in SMALLER.items():
        script = script.replace(large, small)
    texts = tmp_path / "texts"
    texts.mkdir()
    shutil.copy(Path(sysconfig.get_path("stdlib")) / "colorsys.py", texts)
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", GUIDES)
def test_the_commands_are_understood(page: str) -> None:
    modules = {name: importlib.import_module(f"gpt2fast.cli.{name}") for name in COMMANDS}
    for call in commands(page):
        if call[0] in COMMANDS:  # not a sentence that begins with the name
            parse_arguments(modules, call)


@pytest.mark.parametrize("page", ["bench", "compression", "evaluation"])
def test_the_examples_have_their_text(page: str) -> None:
    """It is made by a command of the page, and nothing is written to one place twice."""
    shell = "".join(blocks(page, "sh"))
    assert "mkdir texts && cp " in shell
    calls = [call for call in commands(page) if call[0] in COMMANDS]
    assert len(calls) >= 4
    outs = [call[call.index("--out") + 1] for call in calls if "--out" in call]
    assert len(outs) == len(set(outs))


def test_the_recipe_is_read(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from gpt2fast.compress.recipe.passes import OPTIONS
    from gpt2fast.compress.recipe.recipe import read_recipe

    (recipe,) = blocks("compression", "yaml")
    file = tmp_path / "recipe.yaml"
    file.write_text(recipe)
    assert [step.name for step in read_recipe(file, OPTIONS).steps] == [
        "prune-neurons", "recover", "quantize"
    ]  # fmt: skip
