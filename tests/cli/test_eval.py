"""``gpt2fast eval`` prints measures with intervals, or one line and exit code 2."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gpt2fast.cli import main
from support.pseudo_terminal import run_on_terminal

SAMPLE = "def read(path):\n    with open(path) as file:\n        return file.read()\n\n\n" * 30
QUICK = ["--context", "64", "--num-threads", "1"]


@pytest.fixture
def text(tmp_path: Path) -> str:
    file = tmp_path / "text.py"
    file.write_text(SAMPLE)
    return str(file)


def test_table(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["eval", "demo", "--text", text, "--reference", "demo", "--quantization", "int4"]
    assert main([*command, *QUICK]) == 0
    captured = capsys.readouterr()
    assert captured.err == "", "work of less than two seconds needs no progress"
    rows = dict(line.split("  ", 1) for line in captured.out.splitlines())
    rows = {label: text.strip() for label, text in rows.items()}
    assert rows["model"].startswith("demo (quantization int4, num_threads 1)")
    assert rows["protocol"].startswith("stride, detokenizer none, context 64, stride 32: ")
    assert rows["perplexity"].count("[") == 1
    assert "; reference " in rows["bits a byte"]
    assert " % [" in rows["perplexity change"]
    assert rows["same favourite"].endswith("]")


def test_json(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["eval", "demo", "--text", text, "--protocol", "lm-eval", "--max-tokens", "300"]
    assert main([*command, "--json", "--seed", "5", *QUICK]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["perplexity"]["protocol"] == "lm-eval"
    assert report["perplexity"]["tokens"] == 300
    assert report["perplexity"]["word_perplexity"] > report["perplexity"]["byte_perplexity"]
    assert report["bootstrap"] == {"level": 0.95, "seed": 5, "resamples": 10_000}


def test_last_words_and_bias(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    passages, templates = tmp_path / "passages.txt", tmp_path / "templates.json"
    passages.write_text("import os, sys\nfor key in self\n" * 3)
    each = {"text": "the {word} says that {term}", "terms": ["it", "they"]}
    category = {"name": "code", "words": ["a", "b", "c", "d", "e"], "templates": [each]}
    templates.write_text(json.dumps({"categories": [category]}))
    command = ["eval", "demo", "--lambada", str(passages), "--bias", str(templates)]
    assert main([*command, "--num-threads", "1"]) == 0
    alone = capsys.readouterr().out
    assert f"6 of {passages}" in alone
    assert "accuracy change" not in alone
    assert main([*command, "--num-threads", "1", "--reference", "demo"]) == 0
    rows = dict(line.strip().split("  ", 1) for line in capsys.readouterr().out.splitlines())
    assert "[+0.00, +0.00]" in rows["accuracy change"]
    assert "; reference " in rows["accuracy"]
    assert rows["code"].endswith("absolute 0.0000: not shown to have changed")


def test_directories_and_several_files(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "other.md").write_text(SAMPLE)
    assert main(["eval", "demo", "--text", str(folder), text, "--json", *QUICK]) == 0
    found = json.loads(capsys.readouterr().out)["perplexity"]
    assert (found["files"], found["documents"]) == (2, 2)
    assert found["file"] == f"{folder}, {text}"
    assert main(["eval", "demo", "--text", str(folder), text, *QUICK]) == 0
    assert f"2 files of {folder}, {text} (sha256 " in capsys.readouterr().out


def test_few_windows_have_no_interval(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", "demo", "--text", text, "--max-tokens", "50", *QUICK]) == 0
    assert "(too few for an interval)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "nothing to measure; give --text, --lambada or --bias"),
        (["--text", "/no/such/file"], "/no/such/file: no text files there"),
        (["--text", os.devnull], "/dev/null: the file is empty"),
        (["--text", sys.executable], "is not UTF-8"),
        (["--text", __file__, "--context", "513"], "--context 513 is not in [2, 512]"),
        (["--text", __file__, "--stride", "512"], "--stride 512 is not in [1, 511]"),
        (["--text", __file__, "--protocol", "ours"], "--protocol ours is unknown"),
        (["--text", __file__, "--detokenizer", "x"], "--detokenizer x is unknown"),
        (["--text", __file__, "--max-tokens", "0"], "--max-tokens 0: at least 1"),
        (["--text", __file__, "--quantization", "int5"], "--quantization int5 is not known"),
        (["--text", __file__, "--reference", "./no-such"], "no-such"),
        (["--text", __file__, "--seed", "-1"], "--seed -1 is negative"),
        (["--lambada", "/no/such/file"], "/no/such/file cannot be read"),
        (["--lambada", os.devnull], "has no passages"),
        (["--bias", "--max-tokens", "5"], "--max-tokens is of --text, which is not given"),
        (["--bias", "--protocol", "lm-eval"], "--protocol is of --text"),
        (["--bias", os.devnull], "not a file of templates"),
    ],
)
def test_bad_input(options: Any, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", "demo", *options]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""


def test_help_has_examples(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["eval", "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "gpt2fast eval demo --text" in shown
    assert "95 % interval" in shown


def test_progress_on_a_terminal(text: str) -> None:
    """Short work is shown, too, as if the model were large."""
    code = """
import sys
from gpt2fast.cli import main, progress
progress._QUIET_SECONDS = 0.0
sys.exit(main(["eval", "demo", "--text", sys.argv[1], "--context", "64"]))
"""
    returned, shown = run_on_terminal("-c", code, text)
    assert returned == 0, shown
    assert f"100 %  perplexity of {text}"[:40] in shown
    assert re.search(r"\r +\r$", shown), "the line is cleared at the end"


def test_torch_is_not_needed(text: str) -> None:
    code = """
import sys
from gpt2fast.cli import main
assert main(["eval", "demo", "--text", sys.argv[1], "--context", "64", "--reference", "demo"]) == 0
loaded = {"torch", "transformers", "matplotlib"} & set(sys.modules)
assert not loaded, loaded
"""
    subprocess.run([sys.executable, "-c", code, text], check=True, timeout=60, capture_output=True)
