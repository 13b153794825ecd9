"""``gpt2fast bench`` as a user meets it: the whole command on the bundled and on tiny models."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gpt2fast.cli import main
from support.model_grid import BASE

Make = Callable[..., tuple[Path, Any]]
ROOT = Path(__file__).resolve().parents[2]
QUICK = ["--rounds", "2", "--starts", "1", "--threads", "1"]


def test_everything_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    out = tmp_path / "out"
    text = tmp_path / "text.txt"
    text.write_text("import os\n\n\ndef main() -> None:\n    print(os.getcwd())\n" * 8)
    grid = ["--batch", "1", "3", "--prompt", "16", "--tokens", "64"]
    files = ["--out", str(out), "--work", str(tmp_path), "--text", str(text)]
    caches = ["--kv-cache-dtype", "auto", "float32"]
    assert main(["bench", "demo", *grid, *files, *caches, *QUICK, "--rounds", "1"]) == 0
    printed = capsys.readouterr()
    assert "demo · batch 3 · 16 + 64 tokens · 1 thread" in printed.out
    assert "[4/4] round 1/1" in printed.err
    names = {path.name for path in out.iterdir()}
    plots = {"latency_context", "throughput_batch", "quality_latency"}
    wanted = {f"{name}.{suffix}" for name in plots for suffix in ("png", "svg")}
    assert names == wanted | {"rows.json", "rows.csv", "report.html"}
    record = json.loads((out / "rows.json").read_text())
    assert record["limits"]["read_bandwidth_gb_s"]["median"] > 0.1
    assert len(record["rows"]) == 4
    for row in record["rows"]:
        assert row["status"] == "ok"
        assert row["rounds"] == 1
        assert row["agreement"] == row["agreement_of"] == 32
        assert 0 < row["itl_ms_p50"] <= row["itl_ms_p90"] <= row["itl_ms_p99"]
        assert 0 < row["load_s"] < row["cold_start_s"] < 60
        assert 15 < row["peak_memory_mb"] < 1000
        assert 1 < row["perplexity"] < 1000
        assert len(row["step_ms"]) == 63
        # Medians of the same runs: they cannot differ by more than the noise of a busy machine.
        assert row["decode_gb_s"] == pytest.approx(
            row["bytes_per_step"] / row["itl_ms_p50"] / 1e6, rel=0.9
        )
    assert {row["perplexity"] for row in record["rows"]} == {record["rows"][0]["perplexity"]}


def test_transformers_takes_its_turn_and_agrees(
    make_checkpoint: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, _ = make_checkpoint(**BASE)
    sizes = ["--prompt", "8", "--tokens", "8", "--work", str(tmp_path)]
    systems = ["-s", "gpt2fast", "transformers-eager", "--baseline", "transformers-eager"]
    assert main(["bench", str(path), *sizes, *systems, *QUICK, "--json"]) == 0
    mine, theirs = json.loads(capsys.readouterr().out)["rows"]
    assert (mine["status"], theirs["status"]) == ("ok", "ok"), (mine["reason"], theirs["reason"])
    assert theirs["agreement"] == theirs["agreement_of"]
    assert mine["rounds"] == theirs["rounds"] == 2
    assert theirs["decode_ratio"] == 1
    assert mine["decode_ratio"] == pytest.approx(
        mine["decode_tok_s"] / theirs["decode_tok_s"], rel=0.9
    )
    assert "torch" in theirs["versions"]


def test_a_missing_system_is_a_row_and_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from gpt2fast.bench import peers

    absent = [name for name in peers.names() if peers.missing(name) is not None]
    if not absent:
        pytest.skip("every system is installed")
    sizes = ["--prompt", "8", "--tokens", "8", "--work", str(tmp_path), "--json"]
    assert main(["bench", "demo", *sizes, "-s", "gpt2fast", absent[0], *QUICK]) == 0
    printed = capsys.readouterr()
    rows = json.loads(printed.out)["rows"]
    assert [row["status"] for row in rows] == ["ok", "missing"]
    assert f"{absent[0]}: not installed; pip install" in printed.err
    assert f"{absent[0]}: not installed; pip install" in rows[1]["reason"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give a MODEL"),
        (["demo", "--system", "fastgpt"], "'fastgpt' is unknown"),
        (["demo", "--format", "int2"], "no format 'int2'"),
        (["demo", "--prompt", "500", "--tokens", "100"], "512 tokens"),
        (["demo", "--text", "/no/file"], "/no/file"),
        (["/no/model"], "/no/model"),
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", *arguments, "--work", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("gpt2fast: error: ")
    assert error.count("\n") == 1
    assert message in error


def test_nothing_measured_is_no_success(
    make_checkpoint: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, _ = make_checkpoint(**BASE)
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in path.iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    weights = broken / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-4000:] = b"\xff" * 4000  # NaN: found where the weights are read, in the worker
    weights.write_bytes(data)
    sizes = ["--prompt", "8", "--tokens", "8", "--work", str(tmp_path), "--json"]
    assert main(["bench", str(broken), *sizes, *QUICK]) == 1
    row = json.loads(capsys.readouterr().out)["rows"][0]
    assert row["status"] == "unsupported"
    assert "NaN" in row["reason"] or "infinite" in row["reason"]


def test_ctrl_c_keeps_what_was_measured(tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-m", "gpt2fast", "bench", "demo", "--rounds", "100000"]
    command += ["--prompt", "8", "--tokens", "8", "--starts", "1", "--threads", "1"]
    process = subprocess.Popen(
        [*command, "--out", str(out), "--work", str(tmp_path)],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        cwd=ROOT,
        text=True,
        start_new_session=True,
        # A background job of a shell ignores SIGINT, and its children would too.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("[1/"):
            break
    time.sleep(0.5)
    os.kill(process.pid, signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130, error
    assert "what was measured until then is kept" in error
    assert "Traceback" not in error
    record = json.loads((out / "rows.json").read_text())
    assert record["interrupted"] is True
    assert record["rows"][0]["rounds"] >= 1
    assert "interrupted" in (out / "report.html").read_text()
