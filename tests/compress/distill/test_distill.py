"""Whole distillations of a tiny trained teacher: what they win, resuming, files, refusals."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("accelerate")

from gpt2fast.checkpoint import open_checkpoint  # noqa: E402
from gpt2fast.cli import main  # noqa: E402
from gpt2fast.compress.distill.distill import distill  # noqa: E402
from gpt2fast.compress.distill.options import DistillOptions  # noqa: E402
from gpt2fast.errors import CheckpointError, OptionError  # noqa: E402

SHORT: dict[str, Any] = {
    "batch_size": 4,
    "steps": 12,
    "warmup": 2,
    "lr": 2e-3,
    "log_every": 4,
    "save_every": 4,
    "held_out": 0.3,
}
SAMPLED = {"samples": 8, "ce_weight": 0.1}
HIDDEN = {"hidden_weight": 0.5, "width": 16, "n_head": 4, "loss": "reverse-kl", "dropout": 0.1}


def options_for(out: Path, text: str, teacher: Path, **changes: Any) -> DistillOptions:
    values = {"depth": 2, **SHORT, **changes}
    return DistillOptions(out=str(out), data=(text,), teacher=str(teacher), **values)


def weights(out: Path) -> bytes:
    return (out / "model.safetensors").read_bytes()


def metrics(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("changes", [{}, SAMPLED, HIDDEN], ids=["whole", "sampled", "hidden"])
def test_a_resumed_run_is_bitwise_the_straight_one(
    text: str, teacher: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    straight, cut = tmp_path / "straight", tmp_path / "cut"
    distill(options_for(straight, text, teacher, **changes))
    distill(options_for(cut, text, teacher, stop_at=6, **changes))
    half = weights(cut)
    torch.manual_seed(999)
    distill(options_for(cut, text, teacher, resume=True, **changes))
    assert weights(cut) == weights(straight) != half
    last = [[r for r in metrics(out) if "loss" in r][-1] for out in (cut, straight)]
    assert last[0]["step"] == last[1]["step"] == 12
    assert last[0]["divergence"] == last[1]["divergence"]


def test_files_of_a_run(text: str, teacher: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    record = distill(options_for(out, text, teacher, ce_weight=0.5, loss="alpha-beta"))
    with open_checkpoint(out) as student, open_checkpoint(teacher) as source:
        assert student.config.n_layer == 2
        assert student.num_parameters < source.num_parameters
        assert student.load_tokenizer().to_str() == source.load_tokenizer().to_str()
    assert record == json.loads((out / "training.json").read_text())
    assert record["command"].startswith("gpt2fast distill ")
    assert record["student_layers"] == [0, 3]
    assert len(record["teacher"]) == 64
    for row in metrics(out):
        if "loss" in row:
            total = row["divergence"] + 0.5 * row["cross_entropy"]
            assert row["loss"] == pytest.approx(total, rel=1e-5)


def test_a_student_that_is_its_teacher_has_nothing_to_learn(
    text: str, teacher: Path, tmp_path: Path
) -> None:
    for changes in ({"depth": 4}, {"depth": None, "student": str(teacher)}):
        out = tmp_path / str(changes["depth"])
        distill(options_for(out, text, teacher, weight_decay=0.0, stop_at=4, **changes))
        with open_checkpoint(out) as student, open_checkpoint(teacher) as source:
            for name in source.names:
                np.testing.assert_array_equal(
                    student.tensor(name).float32(), source.tensor(name).float32()
                )
        assert [row["loss"] for row in metrics(out) if "loss" in row] == [0.0]


def test_samples_may_be_shared_and_draw_once(
    text: str, teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gpt2fast.compress.distill import logit_cache

    shared = {"samples": 8, "cache": str(tmp_path / "shared"), "stop_at": 2}
    distill(options_for(tmp_path / "a", text, teacher, **shared))
    monkeypatch.setattr(logit_cache, "_draw", None)  # it would be called
    distill(options_for(tmp_path / "b", text, teacher, **shared, depth=1))
    with pytest.raises(OptionError, match=r"cache in .*shared is of another run: its samples"):
        distill(options_for(tmp_path / "c", text, teacher, **{**shared, "samples": 9}))


def test_another_teacher_is_not_resumed_with(text: str, teacher: Path, tmp_path: Path) -> None:
    import shutil

    from safetensors.numpy import load_file, save_file

    copy, out = shutil.copytree(teacher, tmp_path / "teacher"), tmp_path / "out"
    distill(options_for(out, text, copy, stop_at=4))
    tensors = load_file(copy / "model.safetensors")
    tensors["transformer.ln_f.bias"] = tensors["transformer.ln_f.bias"] + 1
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(OptionError, match=r"teacher is [0-9a-f]+, but was"):
        distill(options_for(out, text, copy, resume=True))


def test_divergence_is_named(text: str, teacher: Path, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="training has diverged"):
        distill(options_for(tmp_path / "out", text, teacher, lr=1e30, clip=0.0, warmup=0))
    assert not (tmp_path / "out" / "model.safetensors").exists()


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"teacher": ""}, "--teacher is missing"),
    ({"student": "gpt2"}, "--depth cannot go with --student"),
    ({"alpha": 0.5}, "--alpha 0.5 is not valid: give --loss alpha-beta too"),
    ({"temperature": 0.0}, "--temperature 0.0"),
    ({"divergence_weight": 0.0}, "all weights of the loss are 0"),
    ({"samples": 8, "loss": "reverse-kl"}, "forward divergence alone"),
    ({"samples": 8, "hidden_weight": 1.0}, "needs the teacher at every step"),
    ({"samples": 0}, "--samples 0"),
    ({"cache": "x"}, "give --samples too"),
    ({"ce_weight": math.nan}, "--ce-weight nan"),
    ({"depth": 0}, "--depth 0"),
    ({"loss": "l2"}, "--loss l2"),
]


@pytest.mark.parametrize(("changes", "message"), REFUSED)
def test_bad_options_are_refused_by_name(changes: dict[str, Any], message: str) -> None:
    values = {"out": "o", "data": ("t",), "teacher": "gpt2", "depth": 2, **changes}
    with pytest.raises(OptionError, match=message):
        DistillOptions(**values)


def test_runs_that_cannot_be_write_nothing(text: str, teacher: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"width": 64}, "exceeds the teacher's 32"),
        ({"depth": 9}, "--depth 9 exceeds the teacher's 4 layers; give at most as many"),
        ({"context": 33}, "exceeds the model's 32"),
        ({"student": "demo", "depth": None, "context": 64}, "exceeds the teacher's 32 positions"),
    ]
    for changes, message in wrong:
        with pytest.raises(OptionError, match=message):
            distill(options_for(out, text, teacher, **changes))
    with pytest.raises(CheckpointError):
        distill(options_for(out, text, tmp_path / "nothing"))
    with pytest.raises(OptionError, match="is the model of --teacher"):
        distill(options_for(teacher, text, teacher))
    assert not out.exists()


def test_a_student_with_other_tokens_is_refused(text: str, teacher: Path, tmp_path: Path) -> None:
    options = options_for(tmp_path / "o", text, teacher, student="demo", depth=None, context=16)
    with pytest.raises(OptionError, match="vocabulary of 280 tokens, the student one of 2560"):
        distill(options)


def test_command_line(
    text: str, teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "cli"
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in SHORT.items()]
    command = ["distill", text, "--teacher", str(teacher), "--out", str(out), *flags]
    assert main([*command, "--layers", "1", "3", "--stop-at", "2", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["student_layers"] == [1, 3]
    assert "--layers 1 3" in record["command"]
    assert main(command) == 2
    assert "--layers is none and was 1 3" in capsys.readouterr().err


@pytest.mark.slow
def test_two_processes_equal_one_and_resume(text: str, teacher: Path, tmp_path: Path) -> None:
    """With a map between widths, which is trained beside the student, and with drawn tokens."""

    def launch(out: str, processes: int, **changes: Any) -> dict[str, np.ndarray]:
        options = {**SHORT, "threads": 1, "layers": "0 3", **changes}
        flags: list[str] = []
        for name, value in options.items():
            words = [] if value is True else str(value).split()
            flags += [f"--{name.replace('_', '-')}", *words]
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
        command = ["-m", "gpt2fast", "distill", text, "--teacher", str(teacher), "--out", out]
        environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
        subprocess.run(
            [sys.executable, *launcher, *command, *flags],
            cwd=tmp_path,
            env=environment,
            check=True,
            timeout=300,
        )
        with open_checkpoint(tmp_path / out) as checkpoint:
            return {name: checkpoint.tensor(name).float32() for name in checkpoint.names}

    hidden = {"hidden_weight": 1.0, "width": 16, "n_head": 4}
    for kind, changes in (("hidden", hidden), ("sampled", {"samples": 8})):
        one = launch(f"{kind}-one", 1, **{**changes, "batch_size": 4})
        two = launch(f"{kind}-two", 2, **{**changes, "batch_size": 2})
        launch(f"{kind}-halves", 2, **{**changes, "batch_size": 2, "stop_at": 6})
        halves = launch(f"{kind}-halves", 2, **{**changes, "batch_size": 2, "resume": True})
        for name in one:
            np.testing.assert_array_equal(halves[name], two[name])
            np.testing.assert_allclose(two[name], one[name], atol=4e-3)
