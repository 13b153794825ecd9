"""Every command and every block of Python in README.md and docs/ runs, on the bundled model, or
stands with its reason in ``support/documentation_rules.py``."""

from __future__ import annotations

import importlib
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gpt2fast import LLM, SamplingParams
from gpt2fast.checkpoint.resolve import resolve
from gpt2fast.cli import main
from gpt2fast.cli.dispatch import COMMANDS
from gpt2fast.cli.parser import build_parser, parse_arguments
from support.documentation import (
    PAGES,
    ROOT,
    SHELL,
    SHOWN,
    Block,
    blocks_of,
    gpt2fast_arguments,
    hidden_commands,
    words_of,
)
from support.documentation_rules import LESS, MODELS, NOT_RUN, SLOW, TEXTS, Rule

sys.path.insert(0, str(ROOT / "benchmarks"))
from readme_tables import tables

MODULES = {name: importlib.import_module(f"gpt2fast.cli.{name}") for name in COMMANDS}
BLOCKS = {page: blocks_of(page) for page in PAGES}
RUNNABLE = [page for page in PAGES if any(each.language not in SHOWN for each in BLOCKS[page])]
# What a page imports beyond the core.
NEEDS = {
    "README.md": ("torch", "transformers", "onnxruntime", "onnx_ir"),
    "docs/compression.md": ("torch",),
    "docs/export.md": ("onnxruntime", "onnx_ir", "onnxruntime_genai"),
    "docs/quantization.md": ("torch",),
    "docs/quickstart.md": ("torch", "transformers", "onnxruntime", "onnx_ir"),
    "docs/transformers.md": ("torch", "transformers"),
}


def rule_for(text: str, rules: tuple[Rule, ...]) -> Rule | None:
    return next((rule for rule in rules if rule.matches(text)), None)


def units(page: str) -> list[tuple[Block, str]]:
    """What a rule may be about: a command, or a whole block of Python."""
    return [
        (block, text)
        for block in BLOCKS[page]
        for text in (block.commands if block.language in SHELL else [block.text])
        if block.language not in SHOWN
    ]


@pytest.mark.parametrize("page", PAGES)
def test_blocks_have_languages_that_are_tested(page: str) -> None:
    """A command that is indented, or fenced without a language, would go unnoticed."""
    assert {each.language for each in BLOCKS[page]} <= {"python", *SHELL, *SHOWN}
    assert not hidden_commands(page), "fence it as sh or console"


@pytest.mark.parametrize("page", RUNNABLE)
def test_every_name_is_defined(page: str) -> None:
    """Of each page's blocks one after the other: a later one may use what an earlier one made."""
    script = "\n".join(each.text for each in BLOCKS[page] if each.language == "python")
    done = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "F821,E9", "-"],
        input=script, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("page", RUNNABLE)
def test_commands_are_understood(page: str) -> None:
    for block, text in units(page):
        if block.language in SHELL:
            for arguments in gpt2fast_arguments(text):
                parse_arguments(MODULES, arguments)
            check_other(words_of(text))


def test_examples_of_help_are_understood() -> None:
    _, subparsers = build_parser(MODULES)
    lines = [line for each in subparsers.choices.values() for line in each.epilog.splitlines()]
    calls = [list(gpt2fast_arguments(line)) for line in lines if "gpt2fast" in line]
    assert len(calls) > 2 * len(COMMANDS)
    for arguments in (each for call in calls for each in call):
        parse_arguments(MODULES, arguments)


def check_other(words: list[str]) -> None:
    """What a command of another program names is there: a target, an extra, a file."""
    if words[0] == "make":
        assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE), words
    elif words[:2] == ["pip", "install"]:
        for extra in re.findall(r"\[([\w,]+)\]", words[2]):
            known = (ROOT / "pyproject.toml").read_text()
            assert all(f"\n{each} = [" in known for each in extra.split(",")), words
    elif words[0] == "python" and words[1].endswith(".py"):
        assert (ROOT / words[1]).is_file(), words


def test_every_rule_is_about_something() -> None:
    texts = [text for page in PAGES for _, text in units(page)]
    for rule in (*SLOW, *NOT_RUN):
        assert any(rule.matches(text) for text in texts), rule
    assert all(any(re.search(each, text, re.M) for text in texts) for each in LESS)
    assert all(any(re.search(rf"\b{each}\b", text) for text in texts) for each in (*MODELS, *TEXTS))


def test_the_tables_are_those_of_the_committed_rows() -> None:
    page = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    made = dict(tables(ROOT / "benchmarks" / "results"))
    assert len(made) == 6
    for part, table in made.items():
        assert table in page, f"{part}: python benchmarks/readme_tables.py benchmarks/results"


@pytest.mark.parametrize("module", ["gpt2fast", "gpt2fast.hf", "gpt2fast.export"])
def test_the_reference_has_all_public_names(module: str) -> None:
    if module == "gpt2fast.hf":
        pytest.importorskip("transformers")
    if module == "gpt2fast.export":
        pytest.importorskip("onnx_ir")
    pages = sorted((ROOT / "docs" / "reference").glob("*.md"))
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages)
    for name in importlib.import_module(module).__all__:
        assert f"{module}.{name}\n" in text or f"`{name}`" in text, name


@pytest.mark.filterwarnings("error:gpt2fast leaves")  # a call to transformers
@pytest.mark.parametrize("page", RUNNABLE)
def test_the_page_runs(
    page: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    run_page(page, tmp_path, monkeypatch, capfd, slow=False)


@pytest.mark.slow
@pytest.mark.parametrize(
    "page", [page for page in RUNNABLE if any(rule_for(text, SLOW) for _, text in units(page))]
)
def test_the_page_runs_with_what_takes_minutes(
    page: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    run_page(page, tmp_path, monkeypatch, capfd, slow=True)


def run_page(
    page: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    *,
    slow: bool,
) -> None:
    """One unit after the other in ``folder``; names and files stay for the next."""
    for module in NEEDS.get(page, ()):
        pytest.importorskip(module)
    prepare(page, folder, monkeypatch)
    names: dict[str, Any] = {"__name__": "__main__"}
    printed: list[str] = []
    for block, text in units(page):
        skipped = rule_for(text, NOT_RUN) or (None if slow else rule_for(text, SLOW))
        if skipped is not None:
            for made in skipped.makes:
                shutil.copytree(resolve("demo"), folder / made, dirs_exist_ok=True)
            continue
        for pattern, less in LESS.items():
            text = re.sub(pattern, less, text, flags=re.MULTILINE)
        if block.language in SHELL:
            run_command(text, f"{page}:{block.line}", capfd)
        else:
            capfd.readouterr()
            exec(compile(text, f"{page}:{block.line}", "exec"), names)
            printed.append(capfd.readouterr().out)
    if page in CHECKS:
        CHECKS[page](names, printed)


def prepare(page: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The models and texts that a page takes to be there, and the files that it shows."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    for name in MODELS:
        shutil.copytree(resolve("demo"), folder / name)
    library = Path(sysconfig.get_path("stdlib"))
    for name in TEXTS:
        (folder / name).mkdir()
        for module in ("colorsys", "bisect", "keyword"):
            shutil.copy(library / f"{module}.py", folder / name / f"{module}.txt")
    for block in BLOCKS[page]:
        if block.language == "yaml":
            (folder / "recipe.yaml").write_text(block.text, encoding="utf-8")


def run_command(command: str, place: str, capfd: pytest.CaptureFixture[str]) -> None:
    """A call of gpt2fast in this process, all else by the shell."""
    words = words_of(command)
    if words[0] == "gpt2fast":
        code = main(words[1:])
    else:
        code = subprocess.run(["sh", "-ec", command], timeout=600, check=False).returncode
    assert code == 0, f"{place}: {command}\n{capfd.readouterr().err}"


def check_export(names: dict[str, Any], printed: list[str]) -> None:
    """Both loops, over onnxruntime and over genai, give the text of the model."""
    prompt, new = names["prompt"], names["new"]
    with LLM("demo", device="cpu", num_threads=1) as llm:
        (output,) = llm.generate(prompt, SamplingParams(temperature=0.0, max_tokens=100))
    text = prompt + output.outputs[0].text
    plain, genai = (each.strip() for each in printed)
    assert text.startswith(plain)
    assert len(plain) > len(prompt) + new
    assert text.startswith(genai)
    assert len(genai) > len(plain)


def check_transformers(names: dict[str, Any], printed: list[str]) -> None:
    """The calls ran where the page says."""
    words = "".join(printed)
    assert "LastRun(runner='cpu', reason=None)" in words
    assert "cannot run on gpt2fast's runner: gradients are wanted" in words
    assert all(each.is_floating_point() for each in names["floats"].parameters())


CHECKS: dict[str, Callable[[dict[str, Any], list[str]], None]] = {
    "docs/export.md": check_export,
    "docs/transformers.md": check_transformers,
}
