"""``gpt2fast quantize`` writes a model that every command takes, or one line and exit code 2."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gpt2fast.cli import main
from model_grid import BASE

Make = Callable[..., tuple[Path, Any]]


def test_json_then_info_and_generate(
    make_checkpoint: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, model = make_checkpoint(**BASE)
    capsys.readouterr()  # transformers draws a bar while it saves
    out = str(tmp_path / "out")
    assert main(["quantize", str(path), out, "--quantization", "int4-g32", "--json"]) == 0
    captured = capsys.readouterr()
    facts = json.loads(captured.out)
    assert captured.err == "", "work of less than two seconds needs no progress"
    assert facts["out"] == out
    assert facts["quantization"] == "int4-g32"
    assert facts["num_bytes_before"] == 4 * model.num_parameters()
    assert facts["num_bytes"] == sum(facts["bytes_by_dtype"].values())
    assert facts["bytes_by_dtype"].keys() == {"int4-g32", "int8-g64", "F32"}
    assert facts["num_bytes"] < facts["num_bytes_before"] / 2

    assert main(["info", out, "--json"]) == 0
    info = json.loads(capsys.readouterr().out)
    assert info["bytes_by_dtype"] == facts["bytes_by_dtype"]
    assert info["num_parameters"] == model.num_parameters()
    assert info["memory"]["quantization"] == "int4-g32"
    assert info["memory"]["kv_cache_dtype"] == "bfloat16"

    shared = ["--prompt-ids", "1,2,3", "--temperature", "0", "--max-tokens", "8", "--ignore-eos"]
    assert main(["generate", out, *shared]) == 0
    saved = capsys.readouterr().out
    assert main(["generate", str(path), *shared, "--quantization", "int4-g32"]) == 0
    assert capsys.readouterr().out == saved


def test_text(make_checkpoint: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, _ = make_checkpoint(**BASE)
    out = tmp_path / "out"
    assert main(["quantize", str(path), str(out), "--quantization", "int8"]) == 0
    line = capsys.readouterr().out
    assert line.startswith(f"{out}: 28")  # kB in float32
    assert " became " in line
    assert "int8-g64 " in line
    assert line.count("\n") == 1


def test_bad_input(
    make_checkpoint: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, _ = make_checkpoint(**BASE)
    taken, out = tmp_path / "taken", tmp_path / "out"
    taken.write_text("mine")
    int8 = ["--quantization", "int8"]
    for args, says in (
        ([str(path), str(taken), *int8], f"{taken} exists and is a file"),
        ([str(path), str(path), *int8], f"{path} is a directory with files in it"),
        ([str(path), str(out), "--quantization", "int5"], "--quantization int5 is not known"),
        ([str(path), str(out), *int8, "--num-threads", "0"], "--num-threads 0"),
        ([str(tmp_path / "none"), str(out), *int8], "no such directory"),
        (["demo", "/proc/out", *int8], "/proc/out: cannot be written: "),
    ):
        assert main(["quantize", *args]) == 2, says
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.startswith("gpt2fast: error: ")
        assert says in captured.err
        assert captured.err.count("\n") == 1
    assert {file.name for file in tmp_path.iterdir()} == {"taken"}


def test_a_quantized_model_is_not_quantized_again(
    make_checkpoint: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = str(tmp_path / "first"), str(tmp_path / "second")
    path, _ = make_checkpoint(**BASE)
    assert main(["quantize", str(path), first, "--quantization", "int8"]) == 0
    for scheme in ("int8", "int4"):
        assert main(["quantize", first, second, "--quantization", scheme]) == 2
        assert f"{first} is already stored in int8-g64" in capsys.readouterr().err
    assert not Path(second).exists()


def test_progress_on_a_terminal(make_checkpoint: Make, tmp_path: Path) -> None:
    """Slow work stands in for a large model: the clock of its process runs a second a look."""
    path, _ = make_checkpoint(**BASE)
    code = """
import itertools, sys
from gpt2fast.cli import main, progress
clock = itertools.count()
progress.perf_counter = lambda: float(next(clock))
sys.exit(main(["quantize", sys.argv[1], sys.argv[2], "--quantization", "int8"]))
"""
    terminal, theirs = pty.openpty()
    command = [sys.executable, "-c", code, str(path), str(tmp_path / "out")]
    done = subprocess.run(command, stderr=theirs, stdout=subprocess.DEVNULL, timeout=60)
    os.close(theirs)
    shown = os.read(terminal, 2**16).decode()
    os.close(terminal)
    assert done.returncode == 0, shown
    assert "%  rounding h.1.mlp.c_proj.weight" in shown
    assert "100 %  writing " in shown
    assert shown.endswith("\r\x1b[K"), "the line is cleared at the end"
