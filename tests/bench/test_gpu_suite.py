"""What of the GPU suite can be tried without a GPU: options, time limits, rows, the table."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

Make = Callable[..., tuple[Path, Any]]
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from gpu import rows

    return rows


@pytest.fixture
def process(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from gpu import process

    return process


def run(*options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "benchmarks/gpu_suite.py", *options]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


def test_without_a_gpu_it_says_so(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("there is one")
    done = run("--out", str(tmp_path / "new"))
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "finds no NVIDIA GPU" in done.stderr


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--only", "everything"], "invalid choice: 'everything'"),
        (["--sizes", "gpt3"], "invalid choice: 'gpt3'"),
        (["--minutes", "0"], "--minutes 0.0 is not a time"),
        (["--out", "/dev/null/x"], "--out /dev/null/x cannot be made"),
    ],
)
def test_bad_options_are_refused(options: list[str], says: str) -> None:
    done = run(*options)
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_rows_are_on_disk_after_each_case(rows: ModuleType, tmp_path: Path) -> None:
    recorder = rows.Recorder("limits", tmp_path, {"device": "none"}, seconds=60)
    recorder.case("good", 1, lambda: recorder.add(rows.make_row("copy", text="4.0TB/s", p50=0.1)))
    recorder.case("bad", 1, lambda: 1 / 0, "gpt2fast")
    recorder.case("long", 3600, lambda: pytest.fail("there was no time for it"))
    content = json.loads((tmp_path / "gpu_limits.json").read_text())
    assert content["device"] == "none"
    assert [row["status"] for row in content["rows"]] == ["ok", "error", "skipped"]
    assert "division by zero" in content["rows"][1]["message"]
    assert "needs about 3600" in content["rows"][2]["message"]
    assert rows.has_failed(recorder.rows)
    assert not rows.has_failed(recorder.rows[::2])


def test_a_long_table_keeps_its_end(rows: ModuleType) -> None:
    many = [rows.make_row(f"case {i}", "x1", "gpt2fast", "1.0us") for i in range(2000)]
    wrong = rows.make_row("last", "x1", "gpt2fast", status=rows.WRONG, message="differs")
    text = rows.table({"kernels": [*many, wrong]})
    assert len(text) <= 12_000
    assert "lines more in the files" in text.splitlines()[0]
    assert "case 1999" in text
    assert "WRONG kernels last gpt2fast x1: differs" in text
    assert text.splitlines()[-1] == "2000 ok, 1 wrong, 0 error, 0 skipped"


def test_children_that_hang_or_die(process: ModuleType) -> None:
    start = time.monotonic()
    with pytest.raises(process.WorkerError, match="no answer within 1 s"):
        process.stream(["-c", "import time; time.sleep(60)"], 1.0, print)
    assert time.monotonic() - start < 20
    with pytest.raises(process.WorkerError, match=r"code 1.*ZeroDivisionError"):
        process.stream(["-c", "1 / 0"], 30.0, print)
    code, text = process.run_logged(
        [sys.executable, "-c", "print('so far'); import sys; sys.exit(3)"], 30
    )
    assert (code, text) == (3, "so far\n")


def test_children_answer_in_lines(process: ModuleType) -> None:
    found: list[dict[str, int]] = []
    process.stream(["-c", "print('noise'); print('{\"row\": 7}')"], 30.0, found.append)
    assert found == [{"row": 7}]


def test_a_worker_of_the_suite_answers_as_those_of_the_package_do(
    process: ModuleType, make_checkpoint: Make
) -> None:
    path, _ = make_checkpoint(vocab_size=50257, n_positions=160, n_embd=8, n_layer=1, n_head=2)
    spec = {"kind": "Ours", "path": str(path), "options": {"device": "cpu"}}
    child = process.start(["-m", "gpu.worker", json.dumps(spec)])
    try:
        child.send({"do": "load", "batches": [1]})
        assert child.answer(60)["load"] > 0
        child.send({"do": "tokens", "seeds": [1, 2], "new": 4})
        assert [len(tokens) for tokens in child.answer(60)["tokens"]] == [4, 4]
        child.send({"do": "decode", "batch": 2, "seed": 1})
        assert child.answer(60)["long"] > 0
        child.send({"do": "no such request"})
        with pytest.raises(process.WorkerError, match="no such request") as caught:
            child.answer(60)
        assert not caught.value.is_lost
        child.send({"do": "prefill", "length": 8, "seed": 1})
        assert child.answer(60)["seconds"] > 0
    finally:
        child.kill()
    with pytest.raises(process.WorkerError) as lost:
        child.send({"do": "tokens"})
    assert lost.value.is_lost


def test_a_checkout_that_is_not_installed_is_enough(tmp_path: Path) -> None:
    code = "import sys; sys.path[:] = [p for p in sys.path if 'site-packages' not in p]\n"
    code += f"sys.path.insert(0, {str(ROOT / 'benchmarks')!r}); import gpu_suite"
    done = subprocess.run(
        [sys.executable, "-I", "-c", code], capture_output=True, text=True, cwd=tmp_path, timeout=60
    )
    assert done.returncode == 0, done.stderr
