"""Recovery in a process: it helps, resumes bit for bit, and keeps grids and zeros."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("accelerate")

from gpt2fast.checkpoint import open_checkpoint  # noqa: E402
from gpt2fast.compress.calibration.calibration import Calibration  # noqa: E402
from gpt2fast.compress.distill.losses import FORWARD_KL, divergence  # noqa: E402
from gpt2fast.compress.distill.options import RecoverOptions  # noqa: E402
from gpt2fast.compress.distill.recover import (  # noqa: E402
    kept_layers,
    recover,
    recover_model,
)
from gpt2fast.compress.distill.student import student_from  # noqa: E402
from gpt2fast.compress.state.model import Model, QuantizedMatrix, frozen, open_model  # noqa: E402
from gpt2fast.errors import OptionError  # noqa: E402
from gpt2fast.kernels import reference  # noqa: E402
from gpt2fast.model.gpt2 import GPT2  # noqa: E402
from gpt2fast.quantization import MatrixFormat  # noqa: E402
from gpt2fast.train.corpus import python_documents  # noqa: E402
from gpt2fast.train.data import FixedWindows, tokenize  # noqa: E402
from gpt2fast.train.objective import next_token_loss  # noqa: E402

SHORT = RecoverOptions(steps=12, save_every=4, batch_size=2, lr=3e-3, log_every=4, seed=5)
FC = "h.0.mlp.c_fc.weight"


@pytest.fixture
def windows(random_calibration: Callable[..., Calibration]) -> np.ndarray:
    return random_calibration(101, windows=6, length=17).windows


@pytest.fixture
def teacher(random_model: Callable[..., Model]) -> GPT2:
    return random_model(n_layer=3).network


def half(teacher: GPT2) -> GPT2:
    return frozen(student_from(teacher, layers=(0, 2)))


def distance(student: GPT2, teacher: GPT2, windows: np.ndarray) -> float:
    rows = torch.from_numpy(windows)
    return divergence(student(rows), teacher(rows), *FORWARD_KL).item()


def bits(network: GPT2) -> dict[str, bytes]:
    return {name: value.numpy().tobytes() for name, value in network.state_dict().items()}


def test_it_comes_closer_and_leaves_the_network_frozen(
    teacher: GPT2, windows: np.ndarray, tmp_path: Path
) -> None:
    student, seen = half(teacher), []
    before, teachers = distance(student, teacher, windows), bits(teacher)
    facts = recover(
        student, teacher, windows, tmp_path, SHORT, progress=lambda *at: seen.append(at)
    )
    assert distance(student, teacher, windows) < 0.7 * before
    assert facts["steps"] == 12
    assert facts["last_loss"] < facts["first_loss"]
    assert seen == [(step, 12) for step in range(1, 13)]
    assert not student.training
    assert not any(p.requires_grad for p in student.parameters())
    assert bits(teacher) == teachers


@pytest.mark.parametrize("samples", [None, 8])
def test_a_resumed_recovery_is_the_straight_one(
    teacher: GPT2, windows: np.ndarray, tmp_path: Path, samples: int | None
) -> None:
    options = replace(SHORT, samples=samples)
    straight, cut, again = half(teacher), half(teacher), half(teacher)
    recover(straight, teacher, windows, tmp_path / "a", options)
    recover(cut, teacher, windows, tmp_path / "b", replace(options, stop_at=6))
    assert bits(cut) != bits(straight)
    resumed = half(teacher)
    recover(resumed, teacher, windows, tmp_path / "b", options)
    assert bits(resumed) == bits(straight)
    recover(again, teacher, windows, tmp_path / "b", options)  # all is done already
    assert bits(again) == bits(straight)


def test_work_of_another_recovery_is_refused(
    teacher: GPT2, windows: np.ndarray, tmp_path: Path
) -> None:
    recover(half(teacher), teacher, windows, tmp_path, SHORT)
    with pytest.raises(OptionError, match=r"another recovery \(windows differ\)"):
        recover(half(teacher), teacher, windows[::-1].copy(), tmp_path, SHORT)
    with pytest.raises(OptionError, match="network differ"):
        recover(
            frozen(student_from(teacher, depth=2, n_inner=90)), teacher, windows, tmp_path, SHORT
        )


def test_a_model_keeps_its_grids_and_zeros(
    teacher: GPT2, random_model: Callable[..., Model], windows: np.ndarray, tmp_path: Path
) -> None:
    model = Model(half(teacher), tmp_path)
    form = MatrixFormat("int4", 32)
    integers, scales = reference.quantize_matrix(model.weight(FC), form.name, form.group_size)
    model.set_quantized(FC, QuantizedMatrix(integers.to(torch.int8), scales, form))
    sparse = model.network.get_parameter("h.1.mlp.c_proj.weight")
    sparse.masked_fill_(sparse.abs() < 0.1, 0.0)
    zeros, norm = sparse == 0, model.network.get_parameter("ln_f.weight").clone()
    before = distance(model.network, teacher, windows)
    recover_model(model, teacher, windows, tmp_path / "work", SHORT)
    assert distance(model.network, teacher, windows) < 0.8 * before
    assert torch.equal(model.network.get_parameter("h.1.mlp.c_proj.weight") == 0, zeros)
    assert torch.equal(model.weight(FC), model.matrices[FC].dequantize())
    assert torch.equal(model.matrices[FC].scales, scales)
    assert not torch.equal(model.matrices[FC].integers, integers.to(torch.int8))
    assert not torch.equal(model.network.get_parameter("ln_f.weight"), norm)
    assert json.loads(json.dumps(model.history))[0]["pass"] == "recover"


def test_divergence_is_an_error(teacher: GPT2, windows: np.ndarray, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="is not finite at step"):
        recover(half(teacher), teacher, windows, tmp_path, RecoverOptions(lr=1e30, clip=0.0))


def test_windows_beyond_the_teachers_positions_are_refused(
    teacher: GPT2, random_calibration: Callable[..., Calibration], tmp_path: Path
) -> None:
    long = random_calibration(101, windows=2, length=60).windows
    with pytest.raises(OptionError, match="exceeds the teacher's 48 positions"):
        recover(half(teacher), teacher, long, tmp_path, SHORT)


@pytest.mark.slow
def test_rounding_the_bundled_model_is_partly_undone(tmp_path: Path) -> None:
    """On tokens that no step saw."""
    original, model = open_model("demo"), open_model("demo")
    rng = np.random.default_rng(0)
    windows = rng.integers(0, 2560, (24, 33))
    for name in model.matrix_names()[1:]:
        rows = model.weight(name)
        integers, scales = reference.quantize_matrix(rows, "int4", 128)
        model.set_quantized(
            name, QuantizedMatrix(integers.to(torch.int8), scales, MatrixFormat("int4", 128))
        )
    before = distance(model.network, original.network, windows[16:])
    options = RecoverOptions(steps=20, batch_size=4, lr=1e-4)
    recover_model(model, original.network, windows[:16], tmp_path, options)
    assert distance(model.network, original.network, windows[16:]) < 0.9 * before


def test_a_teacher_is_worth_more_than_the_text_alone(tmp_path: Path) -> None:
    """A half-depth student of the bundled model: the same windows and steps, without and with its
    teacher, judged by the cross-entropy of text that no step saw."""
    teacher, tokenizer = open_model("demo").network, open_checkpoint("demo").load_tokenizer()
    assert tokenizer is not None
    tokens = tokenize(tokenizer, python_documents()[100:130], 0)[: 160 * 32 + 1]
    windows = FixedWindows.cut(tokens, 32, 0).windows
    losses = {}
    for name, weights in (("alone", (0.0, 1.0)), ("taught", (1.0, 0.0))):
        student = frozen(student_from(teacher, depth=2))
        options = RecoverOptions(
            steps=16,
            lr=1e-3,
            warmup=2,
            divergence_weight=weights[0],
            ce_weight=weights[1],
        )
        recover(student, teacher, windows[:64], tmp_path / name, options)
        losses[name] = next_token_loss(student, torch.from_numpy(windows[96:])).item()
    assert losses["taught"] < losses["alone"] - 0.1


def test_the_layers_left_are_those_of_the_teacher() -> None:
    history = [
        {"pass": "prune-layers", "removed": [1, 4]},  # leaves 0 2 3 5
        {"pass": "quantize"},
        {"pass": "prune_layers", "removed": [2]},  # counts what is left: 3 goes
    ]
    assert kept_layers(history, 6) == [0, 2, 5]
    assert kept_layers([], 3) == [0, 1, 2]
