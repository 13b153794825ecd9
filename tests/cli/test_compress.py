"""``gpt2fast compress``: what it prints, and what it says to wrong input."""

from __future__ import annotations

import inspect
import json
from pathlib import Path

import pytest

pytest.importorskip("torch")

from gpt2fast.cli import main

pytestmark = pytest.mark.usefixtures("short_timings")

ROUND = "passes:\n  - quantize: {method: rtn, blocks: int8, head_method: rtn}\n"


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import argparse

    path = tmp_path_factory.mktemp("text") / "source.txt"
    path.write_text(inspect.getsource(argparse))
    return path


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(ROUND)
    return path


def test_a_recipe(
    text: Path, recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    words = ["compress", "demo", str(out), "--recipe", str(recipe), "--text", str(text)]
    assert main([*words, "--num-threads", "1", "--max-loss", "2%"]) == 0
    shown = capsys.readouterr()
    report = json.loads((out / "report.json").read_text())
    assert f"{report['quality']['perplexity_after']:.3f}" in shown.out
    assert "95 % interval" in shown.out
    assert "Traceback" not in shown.err
    assert main(["info", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["num_parameters"] > 0
    assert main(["generate", str(out), "import os", "--max-tokens", "3"]) == 0
    capsys.readouterr()
    # Into a directory that is taken, by name.
    assert main(words) == 2
    assert str(out) in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "give a budget"),
        (["--max-loss", "1"], "write it as 1%"),
        (["--max-loss", "0%"], "more than 0 %"),
        (["--max-size", "many"], "write it as 90MB"),
        (["--min-speedup", "-1"], "more than 0"),
        (["--max-loss", "1%", "--text", "none/*.txt"], "none/*.txt: no text files there"),
        (["--max-loss", "1%", "--verify-text", "x"], "--verify-text needs --text"),
        (["--recipe", "none.yaml"], "none.yaml: cannot be read"),
        (["--max-loss", "1%", "--text", "{text}", "--work", "{out}"], "choose another --work"),
        (["--max-loss", "1%", "--seed", "-1"], "--seed -1 is not valid"),
        (["--max-loss", "1%", "--text", "{short}"], "short.txt: the calibration part"),
        (["--num-threads", "0", "--max-loss", "1%"], "--num-threads 0 is not valid"),
    ],
    ids=lambda value: " ".join(value)[:30] if isinstance(value, list) else "",
)
def test_wrong_input_is_one_line(
    words: list[str],
    message: str,
    text: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    short = tmp_path / "short.txt"
    short.write_text("a few words")
    out = tmp_path / "out"
    given = [word.format(text=text, out=out, short=short) for word in words]
    assert main(["compress", "demo", str(out), *given]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.strip().count("\n") == 0, error
    assert not out.exists()


def test_an_impossible_budget_is_refused(
    text: Path, recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--recipe", str(recipe), "--text", str(text), "--max-size", "1KB"]
    assert main(["compress", "demo", str(tmp_path / "out"), *words, "--num-threads", "1"]) == 2
    error = capsys.readouterr().err
    assert "keeps the budget" in error
    assert "0.001 MB are allowed" in error
    assert not (tmp_path / "out").exists()


def test_an_interrupted_command_says_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("gpt2fast.compress.run.compress", interrupted)
    assert main(["compress", "demo", str(tmp_path / "out"), "--max-loss", "1%"]) == 130
    said = capsys.readouterr().err
    assert said.startswith("gpt2fast: interrupted; what is done is in ")
    assert said.count("\n") == 1
