"""Runs that fail, are interrupted or meet damaged files: nothing good is lost, each can go on."""

from __future__ import annotations

import json
import math
import os
import platform
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("accelerate")

from gpt2fast.cli import main  # noqa: E402
from gpt2fast.errors import CheckpointError, OptionError  # noqa: E402
from gpt2fast.files.disk import clear_write_errors, human_size  # noqa: E402
from gpt2fast.train import loop  # noqa: E402
from gpt2fast.train.checkpointing import check_room_for_run  # noqa: E402
from gpt2fast.train.memory import (  # noqa: E402
    check_memory,
    clear_memory_errors,
)
from gpt2fast.train.metrics import MetricsLog  # noqa: E402
from gpt2fast.train.options import TrainOptions  # noqa: E402
from gpt2fast.train.prepare import prepare  # noqa: E402
from gpt2fast.train.run import train  # noqa: E402
from gpt2fast.train.schedule import learning_rate  # noqa: E402
from gpt2fast.train.training import Training  # noqa: E402

TINY: dict[str, Any] = {
    "vocab_size": 270,
    "n_embd": 16,
    "n_layer": 1,
    "n_head": 2,
    "n_positions": 16,
    "batch_size": 2,
    "steps": 8,
    "warmup": 0,
    "dropout": 0.1,
    "log_every": 1,
    "save_every": 4,
    "held_out": 0.3,
}


@pytest.fixture(scope="module")
def finished(text: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of 8 steps, with checkpoints of steps 4 and 8."""
    out = tmp_path_factory.mktemp("finished") / "model"
    train(TrainOptions(out=str(out), data=(text,), **TINY))
    return out


@pytest.fixture
def model(finished: Path, tmp_path: Path) -> Path:
    """A copy of the run, killed before its end, that a test may damage."""
    out = Path(shutil.copytree(finished, tmp_path / "model"))
    (out / "training.json").unlink()
    return out


def options_for(out: Path, text: str, **changes: Any) -> TrainOptions:
    return TrainOptions(**{**TINY, "out": str(out), "data": (text,), **changes})


def flags() -> list[str]:
    return [f"--{k.replace('_', '-')}={v}" for k, v in TINY.items()]


def weights(out: Path, step: int = 8) -> bytes:
    return (out / "checkpoints" / f"step-{step:08d}" / "model.safetensors").read_bytes()


@pytest.mark.parametrize(
    "changes",
    [
        {"n_embd": 16384, "n_layer": 30},
        {"n_positions": 4096},  # the corpus is too small for one sequence
        {"vocab_size": 5000},
        {"init": "finished", "context": 17},
    ],
)
def test_refused_runs_write_nothing(
    text: str, finished: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    out = tmp_path / "out"
    if "init" in changes:
        shape = ("vocab_size", "n_embd", "n_layer", "n_head", "n_positions")
        changes = {**dict.fromkeys(shape), **changes, "init": str(finished)}
    with pytest.raises(OptionError):
        train(options_for(out, text, **changes))
    assert not out.exists()


def test_a_model_beyond_memory_is_refused() -> None:
    with pytest.raises(OptionError, match=r"needs .* GB of memory, this machine or container has"):
        check_memory(10**15, on_cpu=True)
    check_memory(10**6, on_cpu=True)
    with pytest.raises(OptionError, match="not enough memory"), clear_memory_errors():
        torch.empty(2**55)


_FRESH_PAGES = """
import resource, torch
from gpt2fast.train.memory import freed_memory_kept

def fresh_pages():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(16 * 2**20).sum()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

fresh_pages()
usual = fresh_pages()
with freed_memory_kept():  # where a small block stands in the way, it takes another place
    kept = min(fresh_pages() for _ in range(8))
print(usual, kept, fresh_pages())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc alone can be told")
def test_freed_memory_is_kept_for_the_next_step_and_given_back_at_the_end() -> None:
    """In a process of its own: one whose memory has run out before has left glibc's main arena."""
    done = subprocess.run([sys.executable, "-c", _FRESH_PAGES], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    usual, kept, afterwards = map(int, done.stdout.split())
    assert kept < usual / 10
    assert afterwards > usual / 2


@pytest.mark.parametrize("resume", [False, True])
def test_a_run_without_checkpoint_starts_over(
    text: str, finished: Path, tmp_path: Path, resume: bool
) -> None:
    out = tmp_path / "out"
    with ExitStack() as held:
        prepare(Training(options_for(out, text)), True, held)  # and then the machine went down
    assert (out / "run" / "run.json").exists()
    train(options_for(out, text, resume=resume))
    assert weights(out) == weights(finished)


@pytest.fixture
def _interruptible() -> Iterator[None]:
    """SIGINT as in a terminal: a shell's background jobs, tests among them, inherit it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_interruptible")
def test_an_interrupt_saves_and_the_run_goes_on_bit_for_bit(
    text: str,
    finished: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out, write = tmp_path / "out", MetricsLog.write

    def interrupt(self: MetricsLog, step: int, **values: float) -> None:
        write(self, step, **values)
        if step == 2:
            signal.raise_signal(signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patch:
        patch.setattr(MetricsLog, "write", interrupt)
        assert main(["train", text, "--out", str(out), *flags()]) == 130
    assert signal.getsignal(signal.SIGINT) is before
    assert "step 3 is saved" in capsys.readouterr().err
    assert [d.name for d in (out / "checkpoints").iterdir()] == ["step-00000003"]
    assert not (out / "model.safetensors").exists()
    assert main(["train", text, "--out", str(out), *flags()]) == 0
    assert weights(out) == weights(finished)


@pytest.mark.usefixtures("_interruptible")
def test_the_second_interrupt_does_not_wait(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def impatient(*_: Any) -> Any:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        raise AssertionError("the second signal was not answered")

    monkeypatch.setattr(loop.Trainer, "_step", impatient)
    with pytest.raises(KeyboardInterrupt):
        train(options_for(tmp_path / "out", text))


@pytest.mark.parametrize("resume", [False, True])
def test_training_onto_the_initial_model_is_refused(text: str, model: Path, resume: bool) -> None:
    before = (model / "model.safetensors").read_bytes()
    place = model.parent / "x" / ".." / model.name
    with pytest.raises(OptionError, match="is the model of --init"):
        train(TrainOptions(out=str(place), init=str(model), data=(text,), resume=resume))
    assert (model / "model.safetensors").read_bytes() == before


@pytest.mark.parametrize("deleted", [("run",), ("checkpoints",), ("run", "checkpoints")])
@pytest.mark.parametrize("resume", [False, True])
def test_a_finished_model_is_not_overwritten(
    text: str, model: Path, deleted: tuple[str, ...], resume: bool
) -> None:
    for name in deleted:
        shutil.rmtree(model / name)
    before = {f: f.read_bytes() for f in model.rglob("*") if f.is_file()}
    with pytest.raises((OptionError, CheckpointError), match=r"choose another"):
        train(options_for(model, text, resume=resume))
    assert {f: f.read_bytes() for f in model.rglob("*") if f.is_file()} == before


def test_a_run_in_the_directory_of_a_foreign_model_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(OptionError, match=r"holds a model \(config\.json\)"):
        train(options_for(tmp_path, text))


def test_divergence_stops_before_anything_is_saved(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    extra = ["--lr=1e30", "--clip=0", "--save-every=1"]
    assert main(["train", text, "--out", str(out), *flags(), *extra]) == 2
    message = capsys.readouterr().err
    assert "training has diverged" in message
    assert "--lr (now 1e+30)" in message
    assert "no checkpoint was written" in message
    assert not (out / "model.safetensors").exists()
    assert not list((out / "checkpoints").glob("step-*"))
    lines = (out / "metrics.jsonl").read_text().splitlines()
    assert all(math.isfinite(json.loads(line)["loss"]) for line in lines)


def test_divergence_leaves_the_last_good_checkpoint(
    text: str, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"

    def rate(step: int, options: TrainOptions) -> float:
        return 1e30 if step == 5 else learning_rate(step, options)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "learning_rate", rate)
        with pytest.raises(OptionError, match=r"loss is not finite at step 6.*step-00000005"):
            train(options_for(out, text, save_every=1))
    train(options_for(out, text, resume=True))
    assert weights(out) == weights(finished)


def test_a_gradient_that_is_not_finite_stops_the_run(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = Training.network

    def make_steep(*args: Any) -> Any:
        model: Any = make(*args)
        next(model.parameters()).register_hook(lambda gradient: gradient * math.inf)
        return model

    monkeypatch.setattr(Training, "network", make_steep)
    with pytest.raises(OptionError, match="gradient norm is not finite at step 1"):
        train(options_for(tmp_path / "out", text, clip=0.0))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


STEP = "checkpoints/step-00000008"


@pytest.mark.parametrize("damage", [truncate, Path.unlink])
@pytest.mark.parametrize(
    "name",
    [
        *("run/run.json", "run/tokenizer.json", "run/train.npy", "run/held_out.npy"),
        *(f"{STEP}/model.safetensors", f"{STEP}/optimizer.bin", f"{STEP}/random_states_0.pkl"),
    ],
)
def test_damaged_files_are_named(
    text: str, model: Path, name: str, damage: Callable[[Path], None]
) -> None:
    damage(model / name)
    with pytest.raises(CheckpointError) as error:
        train(options_for(model, text, resume=True))
    assert str(model / name) in str(error.value)


def test_a_flipped_bit_in_the_random_state_is_found(text: str, model: Path) -> None:
    path = model / STEP / "random_states_0.pkl"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"random_states_0\.pkl is damaged; .* delete"):
        train(options_for(model, text, resume=True))


@pytest.mark.parametrize("content", ["", "{", "[]", '{"step": "8", "processes": 1}'])
def test_a_damaged_state_is_named(text: str, model: Path, content: str) -> None:
    (model / STEP / "state.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"state\.json is damaged"):
        train(options_for(model, text, resume=True))


def test_damaged_metrics_are_named(text: str, model: Path) -> None:
    path = model / "metrics.jsonl"
    path.write_text("\0\0\n" + path.read_text())
    with pytest.raises(CheckpointError, match=r"metrics\.jsonl is damaged"):
        train(options_for(model, text, resume=True))


def test_a_checkpoint_without_checksums_loads_with_a_warning(
    text: str, finished: Path, model: Path
) -> None:
    shutil.rmtree(model / STEP)
    step = model / "checkpoints" / "step-00000004"
    (step / "state.json").write_text('{"step": 4, "processes": 1}\n')
    with pytest.warns(UserWarning, match="carries no checksums"):
        train(options_for(model, text, resume=True))
    assert weights(model) == weights(finished)
    (model / "training.json").unlink()
    (model / STEP / "state.json").write_text('{"step": 8, "processes": 1}\n')
    truncate(model / STEP / "optimizer.bin")
    with (
        pytest.warns(UserWarning, match="carries no checksums"),
        pytest.raises(CheckpointError, match=r"step-00000008: cannot be loaded"),
    ):
        train(options_for(model, text, resume=True))


def test_another_number_of_threads_is_warned_of(text: str, model: Path) -> None:
    with pytest.warns(UserWarning, match=r"had 1 thread\(s\), now it has 2; .* not bit for bit"):
        train(options_for(model, text, resume=True, threads=2))


def test_sizes_below_a_gigabyte_are_in_megabytes() -> None:
    assert [human_size(n) for n in (0, 2_500_000, 3 * 10**9)] == ["0.0 MB", "2.5 MB", "3.00 GB"]


def test_out_that_is_a_file_is_not_blamed_on_space(text: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for out in (tmp_path / "file", tmp_path / "file" / "model"):
        with pytest.raises(OptionError, match="is a file, not a directory") as error:
            train(options_for(out, text))
        assert "free" not in str(error.value)


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="no /proc here")
def test_out_in_proc_is_refused(text: str) -> None:
    with pytest.raises(OptionError, match="--out /proc/model: cannot write there"):
        train(options_for(Path("/proc/model"), text))


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write")
def test_out_without_permission_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(OptionError, match="no permission to write"):
        check_room_for_run(str(tmp_path / "out"), 10, 1)


def test_a_permission_lost_on_the_way_is_not_blamed_on_space(tmp_path: Path) -> None:
    with (
        pytest.raises(OptionError, match=r"f: cannot be written: Permission denied") as error,
        clear_write_errors(tmp_path),
    ):
        raise PermissionError(13, "Permission denied", str(tmp_path / "f"))
    assert "full" not in str(error.value)
