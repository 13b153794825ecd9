"""What README.md and docs/ show runs: their Python on the bundled model, their commands through the
parser, and those that take no time as they stand; their recipe through the reader."""

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

from gpt2fast.checkpoint.resolve import resolve
from gpt2fast.cli import main
from gpt2fast.cli.dispatch import COMMANDS
from gpt2fast.cli.parser import parse_arguments

ROOT = Path(__file__).resolve().parents[1]
PAGES = ["README.md", *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md")))]
LANGUAGES = {"python", "sh", "console", "yaml", "text", "json", ""}
# Pages whose Python other tests run, with the libraries that it needs.
RUN_ELSEWHERE = {
    "docs/export.md": "tests/export/test_documentation.py",
    "docs/transformers.md": "tests/hf/test_examples.py",
}
NEED_TORCH = ("gpt2fast.hf", "gpt2fast.compress")
# What stands for a model of the hub, and for an amount that takes minutes.
INSTEAD = {
    'from_pretrained("gpt2"': f'from_pretrained("{resolve("demo")}"',
    '"gpt2"': '"demo"',
    "windows=64, length=512": "windows=4, length=64",
}
# Commands that run in a second on the bundled model; the others have tests of their own that run
# them, and tests/cli/test_killed.py runs all that write.
QUICK = ("generate", "info", "quantize", "export")


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text_of(page), re.DOTALL | re.MULTILINE)


def commands(page: str) -> list[list[str]]:
    """Calls of gpt2fast in blocks, whether fenced or indented, without what the shell does."""
    lines = [line for line in text_of(page).splitlines() if not line.startswith("|")]
    calls = [re.sub(r"^ *(\$ )?", "", line) for line in lines]
    found = [shlex.split(call, comments=True)[1:] for call in calls if call.startswith("gpt2fast ")]
    return [call for call in found if call[0] in COMMANDS]  # not a sentence


def with_python(pages: list[str]) -> list[str]:
    return [page for page in pages if blocks(page, "python")]


@pytest.mark.parametrize("page", PAGES)
def test_every_block_has_a_language_that_is_tested(page: str) -> None:
    fences = re.findall(r"^```(\w*)", text_of(page), re.MULTILINE)
    assert set(fences) <= LANGUAGES


@pytest.mark.parametrize("page", with_python(PAGES))
def test_every_name_is_defined(page: str) -> None:
    """Of each page's blocks one after the other: a later one may use what an earlier one made."""
    done = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "F821,E9", "-"],
        input="\n".join(blocks(page, "python")), capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("page", [page for page in with_python(PAGES) if page not in RUN_ELSEWHERE])
def test_the_python_runs(page: str, tmp_path: Path) -> None:
    script = "\n".join(blocks(page, "python"))
    if any(module in script for module in NEED_TORCH):
        pytest.importorskip("torch")
        pytest.importorskip("transformers")
    for large, small in INSTEAD.items():
        script = script.replace(large, small)
    texts = tmp_path / "texts"
    texts.mkdir()
    shutil.copy(Path(sysconfig.get_path("stdlib")) / "colorsys.py", texts)
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", PAGES)
def test_the_commands_are_understood(page: str) -> None:
    modules = {name: importlib.import_module(f"gpt2fast.cli.{name}") for name in COMMANDS}
    for call in commands(page):
        parse_arguments(modules, call)


def test_quick_commands_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    calls = {tuple(c) for page in PAGES for c in commands(page) if c[0] in QUICK and "demo" in c}
    assert len(calls) >= 4
    for call in sorted(calls):
        assert main(list(call)) == 0, (call, capsys.readouterr().err)
        for made in tmp_path.iterdir():  # another call may have the same name for its result
            shutil.rmtree(made)


@pytest.mark.parametrize("page", ["docs/bench.md", "docs/compression.md", "docs/evaluation.md"])
def test_the_examples_have_their_text(page: str) -> None:
    """It is made by a command of the page, and nothing is written to one place twice."""
    shell = "".join(blocks(page, "sh"))
    assert "mkdir texts && cp " in shell
    calls = commands(page)
    assert len(calls) >= 4
    outs = [call[call.index("--out") + 1] for call in calls if "--out" in call]
    assert len(outs) == len(set(outs))


def test_the_recipe_is_read(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from gpt2fast.compress.recipe.passes import OPTIONS
    from gpt2fast.compress.recipe.recipe import read_recipe

    (recipe,) = blocks("docs/compression.md", "yaml")
    file = tmp_path / "recipe.yaml"
    file.write_text(recipe)
    assert [step.name for step in read_recipe(file, OPTIONS).steps] == [
        "prune-neurons", "recover", "quantize"
    ]  # fmt: skip
