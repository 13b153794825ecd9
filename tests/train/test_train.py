"""Whole runs of a tiny model: resuming, what is written, who can load it, what is refused."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("accelerate")

from gpt2fast import LLM  # noqa: E402
from gpt2fast.checkpoint import open_checkpoint  # noqa: E402
from gpt2fast.cli import main  # noqa: E402
from gpt2fast.config import LayerShape  # noqa: E402
from gpt2fast.errors import MissingDependencyError, OptionError  # noqa: E402
from gpt2fast.files.disk import clear_write_errors  # noqa: E402
from gpt2fast.files.lock import exclusive  # noqa: E402
from gpt2fast.train.options import TrainOptions  # noqa: E402
from gpt2fast.train.run import train  # noqa: E402
from support.pruned import prune  # noqa: E402

TINY: dict[str, Any] = {
    "vocab_size": 280,
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 2,
    "n_positions": 32,
    "batch_size": 2,
    "grad_accum": 2,
    "steps": 20,
    "warmup": 4,
    "dropout": 0.1,
    "log_every": 4,
    "save_every": 5,
    "eval_every": 10,
    "held_out": 0.3,
}


@pytest.fixture(scope="session")
def straight(text: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of 20 steps."""
    out = tmp_path_factory.mktemp("straight") / "model"
    train(TrainOptions(out=str(out), data=(text,), **TINY))
    return out


def checkpoint_state(out: Path, step: int) -> dict[str, bytes]:
    from safetensors.torch import load_file

    folder = out / "checkpoints" / f"step-{step:08d}"
    state = dict(load_file(folder / "model.safetensors"))
    moments = torch.load(folder / "optimizer.bin", weights_only=True)["state"]
    for index, values in moments.items():
        state.update({f"{index}.{name}": value for name, value in values.items()})
    return {name: value.numpy().tobytes() for name, value in state.items()}


def test_resumed_run_is_bitwise_the_straight_one(text: str, straight: Path, tmp_path: Path) -> None:
    out = tmp_path / "halves"
    options = {"out": str(out), "data": (text,), **TINY}
    train(TrainOptions(**options, stop_at=10))
    half = checkpoint_state(out, 10)
    partial = out / "checkpoints" / ".step-00000015-abcdefgh.partial"  # of a killed process
    partial.mkdir()
    (partial / "model.safetensors").write_bytes(b"half")
    torch.manual_seed(999)  # nothing of the process's own random state may matter
    train(TrainOptions(**options, resume=True))
    assert not partial.exists()
    resumed, expected = checkpoint_state(out, 20), checkpoint_state(straight, 20)
    assert resumed == expected
    assert half.keys() == expected.keys()
    assert half != expected
    assert (out / "model.safetensors").read_bytes() == (straight / "model.safetensors").read_bytes()
    losses = [
        [
            (r["step"], r["loss"])
            for r in map(json.loads, path.read_text().splitlines())
            if "loss" in r
        ]
        for path in (out / "metrics.jsonl", straight / "metrics.jsonl")
    ]
    assert dict(losses[0])[20] == dict(losses[1])[20]


def test_seed_and_dropout_matter(text: str, tmp_path: Path) -> None:
    changes: list[dict[str, Any]] = [{}, {"seed": 1}, {"dropout": 0.0}]
    states = []
    for number, change in enumerate(changes):
        out = tmp_path / str(number)
        train(TrainOptions(out=str(out), data=(text,), stop_at=1, **{**TINY, **change}))
        states.append(checkpoint_state(out, 1))
    assert states[0] != states[1]
    assert states[0] != states[2]


def test_files_of_a_run(straight: Path) -> None:
    assert [d.name for d in sorted((straight / "checkpoints").iterdir())] == [
        "step-00000015",
        "step-00000020",
    ]
    assert (straight / "loss_curve.png").read_bytes().startswith(b"\x89PNG")
    records = [json.loads(line) for line in (straight / "metrics.jsonl").read_text().splitlines()]
    assert [r["step"] for r in records if "loss" in r] == [4, 8, 12, 16, 20]
    assert [r["step"] for r in records if "held_out_loss" in r] == [10, 20]
    record = json.loads((straight / "training.json").read_text())
    assert record["command"].startswith(f"gpt2fast train {record['options']['data'][0]} --out ")
    assert record["tokens_seen"] == 20 * 2 * 2 * 32
    assert record["corpus"]["train"]["documents"] + record["corpus"]["held_out"]["documents"] == 8
    assert not list(straight.glob("*.partial"))


def test_training_learns_the_text(text: str, tmp_path: Path) -> None:
    options = {**TINY, "dropout": 0.0, "steps": 25, "lr": 1e-2, "batch_size": 8, "grad_accum": 1}
    record = train(TrainOptions(out=str(tmp_path / "m"), data=(text,), **options))
    # Seven words, drawn evenly: log(7) nats a word is the limit; uniform tokens are log(280).
    assert record["held_out"]["nats_per_token"] < 0.6 * math.log(280)


def test_transformers_loads_the_model_and_agrees(straight: Path) -> None:
    transformers = pytest.importorskip("transformers")
    model, info = transformers.GPT2LMHeadModel.from_pretrained(
        straight, output_loading_info=True, dtype=torch.float32
    )
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    tokenizer = transformers.AutoTokenizer.from_pretrained(straight)
    text = "alpha def\n  🙂 return <|endoftext|>"
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.decode(ids) == text
    assert ids[-1] == tokenizer.eos_token_id == model.config.eos_token_id == 0
    assert tokenizer.model_max_length == 32
    held_out = np.load(straight / "run" / "held_out.npy").astype(np.int64)
    nats, count = 0.0, 0
    with torch.no_grad():
        for start in range(0, len(held_out) - 1, 32):
            row = torch.from_numpy(held_out[start : start + 33])[None]
            logits = model(row[:, :-1]).logits[0]
            nats += torch.nn.functional.cross_entropy(logits, row[0, 1:], reduction="sum").item()
            count += row.shape[1] - 1
    record = json.loads((straight / "training.json").read_text())["held_out"]
    assert record["tokens"] == count
    assert record["nats_per_token"] == pytest.approx(nats / count, rel=1e-4)
    assert record["perplexity"] == pytest.approx(math.exp(nats / count), rel=1e-3)
    size = json.loads((straight / "run" / "run.json").read_text())["corpus"]["held_out"]["bytes"]
    assert record["bits_per_byte"] == pytest.approx(nats / math.log(2) / size, rel=1e-3)


def test_fine_tuning_starts_from_the_model(text: str, straight: Path, tmp_path: Path) -> None:
    out = tmp_path / "tuned"
    options = {"batch_size": 2, "steps": 2, "warmup": 0, "lr": 1e-9, "context": 16}
    train(
        TrainOptions(
            out=str(out), data=(text,), init=str(straight), dtype="float16", held_out=0.3, **options
        )
    )
    with open_checkpoint(straight) as before, open_checkpoint(out) as after:
        assert after.config == before.config
        for name in before.names:
            tuned = after.tensor(name)
            assert tuned.dtype == "F16"
            np.testing.assert_allclose(
                tuned.float32(), before.tensor(name).float32(), atol=1e-6, rtol=1e-3
            )
        tokenizers = [c.load_tokenizer() for c in (before, after)]
        assert tokenizers[0].to_str() == tokenizers[1].to_str()


def test_a_pruned_model_is_fine_tuned_in_its_shape(
    text: str, straight: Path, tmp_path: Path
) -> None:
    with open_checkpoint(straight) as checkpoint:
        config = checkpoint.config
    shapes = [LayerShape(1, 5 + layer) for layer in range(config.n_layer)]
    pruned, out = tmp_path / "pruned", tmp_path / "tuned"
    transformers = pytest.importorskip("transformers")
    model = transformers.AutoModelForCausalLM.from_pretrained(straight)
    prune(model, [(shape.n_head, shape.n_inner) for shape in shapes], pruned)
    shutil.copy(straight / "tokenizer.json", pruned)
    options = {"batch_size": 2, "steps": 2, "warmup": 0, "lr": 1e-9, "context": 16}
    train(TrainOptions(out=str(out), data=(text,), init=str(pruned), held_out=0.3, **options))
    written = json.loads((out / "config.json").read_text())["per_layer_config"]
    assert written["1"] == {"n_head": 1, "n_inner": 6}
    ids = [1, 2, 3, 4, 5, 6]
    with LLM(out) as tuned, torch.no_grad():
        assert tuned.config.layers == tuple(shapes)
        want = model(torch.tensor([ids])).logits[0].numpy()
        np.testing.assert_allclose(tuned.logits(ids), want, atol=1e-3, rtol=0)


def test_accumulated_gradients_equal_one_large_batch(text: str, tmp_path: Path) -> None:
    weights = []
    for batch_size, grad_accum in ((4, 1), (1, 4)):
        out = tmp_path / str(batch_size)
        options = {**TINY, "dropout": 0.0, "batch_size": batch_size, "grad_accum": grad_accum}
        train(TrainOptions(out=str(out), data=(text,), stop_at=1, **options))
        with open_checkpoint(out) as checkpoint:
            weights.append({name: checkpoint.tensor(name).float32() for name in checkpoint.names})
    # AdamW's first step is the sign of the gradient, so equal gradients up to rounding differ only
    # where a gradient is all but zero.
    different = sum(int((np.abs(weights[0][n] - weights[1][n]) > 1e-5).sum()) for n in weights[0])
    assert different < 0.001 * sum(w.size for w in weights[0].values())


def test_untied_head_is_trained_and_saved(text: str, tmp_path: Path) -> None:
    out = tmp_path / "untied"
    train(TrainOptions(out=str(out), data=(text,), untied=True, stop_at=2, **TINY))
    with open_checkpoint(out) as checkpoint:
        assert "lm_head.weight" in checkpoint.names
        assert not checkpoint.config.tie_word_embeddings


def test_too_small_a_disk_is_named_before_training(text: str, tmp_path: Path) -> None:
    enormous = {**TINY, "n_embd": 16384, "n_layer": 30}  # 4 TB a checkpoint
    with pytest.raises(OptionError, match=r"GB are needed there for checkpoints"):
        train(TrainOptions(out=str(tmp_path / "full"), data=(text,), **enormous))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_disk_that_fills_up_is_named(tmp_path: Path) -> None:
    with (
        pytest.raises(OptionError, match=r"cannot be written: the disk is full; free some"),
        clear_write_errors(tmp_path),
        open("/dev/full", "wb", buffering=0) as file,
    ):
        file.write(b"weights")


def test_out_that_is_a_file_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OptionError, match="cannot write there"):
        train(TrainOptions(out=str(tmp_path / "file" / "model"), data=(text,), **TINY))


def test_missing_packages_are_named_before_training(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(
        MissingDependencyError, match=r"matplotlib: pip install 'gpt2fast\[torch\]'"
    ):
        train(TrainOptions(out=str(tmp_path / "m"), data=(text,), **TINY))
    assert not (tmp_path / "m").exists()


def test_half_precision(text: str, tmp_path: Path) -> None:
    from accelerate.state import AcceleratorState

    out, options = str(tmp_path / "half"), {**TINY, "stop_at": 2, "data": (text,)}
    if not torch.cuda.is_available():
        with pytest.raises(OptionError, match="fp16 needs a GPU"):
            train(TrainOptions(out=out, precision="fp16", **options))
    AcceleratorState._reset_state()  # accelerate keeps one precision a process
    try:
        train(TrainOptions(out=out, precision="bf16", **options))
    finally:
        AcceleratorState._reset_state()
    with open_checkpoint(out) as checkpoint:
        assert {checkpoint.tensor(name).dtype for name in checkpoint.names} == {"F32"}


@pytest.mark.slow
def test_two_processes_equal_one_and_resume(text: str, tmp_path: Path) -> None:
    def launch(out: str, processes: int, **changes: Any) -> dict[str, np.ndarray]:
        options = {**TINY, "dropout": 0.0, "threads": 1, **changes}
        flags = [f"--{k.replace('_', '-')}={v}" for k, v in options.items() if v is not True]
        flags += [f"--{k}" for k, v in options.items() if v is True]
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
        command = [sys.executable, *launcher, "-m", "gpt2fast", "train", text, "--out", out, *flags]
        environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
        subprocess.run(command, cwd=tmp_path, env=environment, check=True, timeout=300)
        with open_checkpoint(tmp_path / out) as checkpoint:
            return {name: checkpoint.tensor(name).float32() for name in checkpoint.names}

    one, two = launch("one", 1, batch_size=4), launch("two", 2)
    launch("halves", 2, stop_at=10)
    halves = launch("halves", 2, resume=True)
    for name in one:
        np.testing.assert_array_equal(halves[name], two[name])
        np.testing.assert_allclose(two[name], one[name], atol=2e-3)


def files_of(out: Path) -> dict[Path, tuple[int, bytes]]:
    return {f: (f.stat().st_mtime_ns, f.read_bytes()) for f in out.rglob("*") if f.is_file()}


def test_a_finished_run_is_left_as_it_is(text: str, straight: Path, tmp_path: Path) -> None:
    """And with it a copy whose checkpoints and corpus were deleted to save room."""
    slim = Path(shutil.copytree(straight, tmp_path / "slim"))
    for name in ("checkpoints", "run"):
        shutil.rmtree(slim / name)
    for out in (straight, slim):
        said: list[str] = []
        before = files_of(out)
        record = train(TrainOptions(out=str(out), data=(text,), **TINY), said.append)
        assert record == json.loads((out / "training.json").read_text())
        assert said == [f"{out} is finished already: nothing is left to do"]
        assert files_of(out) == before
        with pytest.raises(OptionError, match=r"other options: --lr is 0\.5 and|choose another d"):
            train(TrainOptions(out=str(out), data=(text,), lr=0.5, **TINY))
        assert files_of(out) == before


def test_another_type_of_the_weights_is_written_from_the_last_checkpoint(
    text: str, straight: Path, tmp_path: Path
) -> None:
    out = Path(shutil.copytree(straight, tmp_path / "half"))
    train(TrainOptions(out=str(out), data=(text,), dtype="bfloat16", **TINY))
    with open_checkpoint(out) as checkpoint:
        assert {checkpoint.tensor(name).dtype for name in checkpoint.names} == {"BF16"}
    assert checkpoint_state(out, 20) == checkpoint_state(straight, 20)


def test_an_interrupt_of_the_last_evaluation_loses_nothing(
    text: str,
    straight: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    flags = [f"--{k.replace('_', '-')}={v}" for k, v in TINY.items()]
    with monkeypatch.context() as patch:

        def interrupt(*_: Any, **__: Any) -> None:
            raise KeyboardInterrupt

        patch.setattr("gpt2fast.train.loop.Trainer._batches", interrupt)
        assert main(["train", text, "--out", str(out), *flags]) == 130
    assert "its held-out loss is not known. Repeat the command" in capsys.readouterr().err
    assert not (out / "training.json").exists()
    weights = (out / "model.safetensors").read_bytes()
    assert weights == (straight / "model.safetensors").read_bytes()
    assert main(["train", text, "--out", str(out), *flags]) == 0
    said = capsys.readouterr().err
    assert "going on after step 20" in said
    assert "held-out text" in said, "it has a bar"
    assert (out / "model.safetensors").read_bytes() == weights
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [r["step"] for r in records if "held_out_loss" in r] == [10, 20]


def test_two_runs_in_one_directory_are_refused(text: str, tmp_path: Path) -> None:
    with exclusive(tmp_path), pytest.raises(OptionError, match="another process is at work there"):
        train(TrainOptions(out=str(tmp_path), data=(text,), **TINY))


def test_too_little_text_is_refused(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / f"{name}.txt").write_text("words " * 10)
    with pytest.raises(OptionError, match="corpus is too small"):
        train(
            TrainOptions(
                out=str(tmp_path / "o"), data=(str(tmp_path),), **{**TINY, "vocab_size": 258}
            )
        )


def test_command_line(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = [f"--{k.replace('_', '-')}={v}" for k, v in TINY.items()]
    out = str(tmp_path / "cli")
    assert main(["train", text, "--out", out, *flags, "--stop-at", "2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["steps"] == 2
    assert main(["train", text, "--out", out, *flags, "--lr", "1"]) == 2
    message = capsys.readouterr().err
    assert "other options: --lr is 1.0 and was 0.001;" in message
    assert "Traceback" not in message
    assert main(["train", text, "--out", out, *flags, "--stop-at", "2", "--resume"]) == 0
    assert f"{out} is finished already" in capsys.readouterr().err
