"""A model between two passes comes back from the disk as it was."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from gpt2fast.compress.state.journal import TensorJournal
from gpt2fast.compress.state.model import Model, QuantizedMatrix
from gpt2fast.compress.state.snapshot import load_snapshot, save_snapshot
from gpt2fast.errors import CheckpointError, OptionError
from gpt2fast.kernels import reference
from gpt2fast.quantization import MatrixFormat

NAME = "h.0.mlp.c_fc.weight"


def quantized(model: Model) -> Model:
    integers, scales = reference.quantize_matrix(model.weight(NAME), "int4", 32)
    matrix = QuantizedMatrix(integers.to(torch.int8), scales, MatrixFormat("int4", 32))
    model.set_quantized(NAME, matrix)
    model.history.append({"pass": "quantize", "loss": 0.25})
    return model


def test_there_and_back(random_model: Callable[..., Model], tmp_path: Path) -> None:
    model = quantized(random_model(tie_word_embeddings=False))
    model.stored = "BF16"
    save_snapshot(model, TensorJournal(tmp_path), "s")
    save_snapshot(model, TensorJournal(tmp_path), "s")  # in place of the first
    again = load_snapshot(TensorJournal(tmp_path), "s", model.source)
    assert again is not None
    assert again.config == model.config
    assert again.history == model.history
    assert again.stored == model.stored == "BF16"
    for name, value in model.network.state_dict().items():
        assert torch.equal(again.network.state_dict()[name], value), name
    assert again.matrices.keys() == model.matrices.keys()
    assert torch.equal(again.matrices[NAME].integers, model.matrices[NAME].integers)
    assert torch.equal(again.matrices[NAME].dequantize(), again.weight(NAME))
    assert again.matrices[NAME].format == MatrixFormat("int4", 32)
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


def test_nothing_there(tmp_path: Path) -> None:
    assert load_snapshot(TensorJournal(tmp_path), "s", tmp_path) is None


@pytest.mark.parametrize("file", ["tensors.safetensors", "facts.json"])
def test_damage_is_named(random_model: Callable[..., Model], tmp_path: Path, file: str) -> None:
    save_snapshot(quantized(random_model()), TensorJournal(tmp_path), "s")
    content = (tmp_path / "s" / file).read_bytes()
    (tmp_path / "s" / file).write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match=r"s: is damaged .* delete it"):
        load_snapshot(TensorJournal(tmp_path), "s", tmp_path)


def test_a_failed_write_leaves_the_old_one(
    random_model: Callable[..., Model], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = random_model()
    save_snapshot(model, TensorJournal(tmp_path), "s")

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("gpt2fast.compress.state.journal.save_file", full)
    with pytest.raises(OptionError, match="s: cannot be written: the disk is full"):
        save_snapshot(quantized(model), TensorJournal(tmp_path), "s")
    kept = load_snapshot(TensorJournal(tmp_path), "s", tmp_path)
    assert kept is not None
    assert not kept.matrices
    assert len(list(tmp_path.iterdir())) == 1
