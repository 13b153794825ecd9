"""``gpt2fast quantize`` writes a model that every command takes, or one line and exit code 2."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpt2fast.checkpoint import open_checkpoint
from gpt2fast.cli import main
from gpt2fast.compress.calibration.calibration import read_calibration
from gpt2fast.compress.quantize import QuantizeOptions, quantize
from gpt2fast.compress.state.artifact import save_model
from gpt2fast.compress.state.model import open_model
from gpt2fast.quantization import Quantization
from support.engine.mock_runner import byte_tokenizer
from support.model_grid import BASE
from support.pseudo_terminal import run_on_terminal

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


def text_file(folder: Path) -> Path:
    words = np.random.default_rng(0).choice(["alpha", "beta", "gamma", "def"], 800)
    file = folder / "text.txt"
    file.write_text(" ".join(words))
    return file


@pytest.mark.parametrize("scheme", ["int4-g32", "int3"])
@pytest.mark.parametrize("method", ["clip", "awq", "gptq"])
def test_methods(
    make_checkpoint: Make,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    method: str,
    scheme: str,
) -> None:
    """What is written is what the pass of a recipe makes, of text like that of the calibration, and
    each method is another one."""
    path, _ = make_checkpoint(seed=7, **BASE)
    byte_tokenizer().save(str(path / "tokenizer.json"))
    file, out = text_file(tmp_path), tmp_path / "out"
    argv = ["quantize", str(path), str(out), "--quantization", scheme, "--num-threads", "1"]
    capsys.readouterr()
    assert main([*argv, "--method", method, "--calibration", str(file), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["method"] == method
    assert facts["calibration"]["text"] == f"{file}, seed 0"
    assert facts["calibration"]["tokens"] > 1000
    model = open_model(path)
    end = model.config.eos_token_ids[0]
    text = read_calibration([str(file)], byte_tokenizer(), 128, model.config.n_positions, 0, end)
    wanted = Quantization.parse(scheme)
    quantize(model, text, QuantizeOptions(method, wanted.blocks, wanted.head))
    save_model(model, tmp_path / "same")
    written = (out / "model.safetensors").read_bytes()
    assert written == (tmp_path / "same" / "model.safetensors").read_bytes()
    argv[2] = str(tmp_path / "nearest")
    assert main(argv) == 0
    assert written != (tmp_path / "nearest" / "model.safetensors").read_bytes()
    with open_checkpoint(out) as checkpoint:
        assert checkpoint.quantization == wanted


def test_the_model_writes_the_text_itself(
    make_checkpoint: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, _ = make_checkpoint(**BASE)
    argv = ["quantize", str(path), "", "--quantization", "int4", "--method", "gptq"]
    weights = []
    for seed in ("0", "1"):
        argv[2] = str(tmp_path / f"{len(weights)}")
        assert main([*argv, "--num-threads", "1", "--seed", seed]) == 0
        assert f"gptq on 12,288 tokens of own text, seed {seed}; " in capsys.readouterr().out
        weights.append((Path(argv[2]) / "model.safetensors").read_bytes())
    assert weights[0] != weights[1]


def test_bad_input(
    make_checkpoint: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, _ = make_checkpoint(**BASE)
    capsys.readouterr()  # transformers draws a bar while it saves
    taken, out = tmp_path / "taken", tmp_path / "out"
    taken.write_text("mine")
    int8, gptq = ["--quantization", "int8"], ["--method", "gptq"]
    for args, says in (
        ([str(path), str(taken), *int8], f"{taken} exists and is a file"),
        ([str(path), str(path), *int8], f"{path} is a directory with files in it"),
        ([str(path), str(out), "--quantization", "int5"], "--quantization int5 is not known"),
        ([str(path), str(out), *int8, "--num-threads", "0"], "--num-threads 0"),
        ([str(tmp_path / "none"), str(out), *int8], "no such directory"),
        ([str(path), str(out), *int8, "--calibration", "x"], "--calibration is text for --method"),
        ([str(path), str(out), *int8, *gptq, "--calibration", str(taken)], "no tokenizer to read"),
        ([str(path), str(out), *int8, *gptq, "--num-threads", "-1"], "--num-threads -1"),
        ([str(path), str(out), *int8, *gptq, "--seed", "-1"], "--seed -1 is not valid"),
        ([str(path), str(out), "--quantization", "fp8", *gptq], "cannot be made fp8"),
        ([str(path), str(out), "--quantization", "fp8"], "on the cpu runner, only on an NVIDIA"),
        (["demo", "/proc/out", *int8], "/proc/out: cannot be written: "),
    ):
        assert main(["quantize", *args]) == 2, says
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.startswith("gpt2fast: error: ")
        assert says in captured.err
        assert captured.err.count("\n") == 1
        assert "device" not in captured.err, "the command has no such option"
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
    """Short work is shown, too, as if the model were large."""
    path, _ = make_checkpoint(**BASE)
    code = """
import sys
from gpt2fast.cli import main, progress
progress._QUIET_SECONDS = 0.0
sys.exit(main(["quantize", sys.argv[1], sys.argv[2], "--quantization", "int8"]))
"""
    returned, shown = run_on_terminal("-c", code, str(path), str(tmp_path / "out"))
    assert returned == 0, shown
    assert "%  rounding h.1.mlp.c_proj.weight" in shown
    assert "100 %  writing " in shown
    assert re.search(r"\r +\r$", shown), "the line is cleared at the end"
