"""What is saved is what the runners load."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gpt2fast import LLM
from gpt2fast.checkpoint import open_checkpoint
from gpt2fast.compress.state.artifact import quantization_of, save_model
from gpt2fast.compress.state.model import Model, QuantizedMatrix, open_model
from gpt2fast.config import LayerShape
from gpt2fast.errors import OptionError
from gpt2fast.kernels import reference
from gpt2fast.quantization import MatrixFormat, Quantization

TOKENS = list(range(3, 40))


def set_format(model: Model, name: str, label: str, group: int) -> None:
    integers, scales = reference.quantize_matrix(model.weight(name), label, group)
    matrix = QuantizedMatrix(integers.to(torch.int8), scales, MatrixFormat(label, group))
    model.set_quantized(name, matrix)


def logits(model: Model) -> np.ndarray[Any, Any]:
    with torch.no_grad():
        return model.network(torch.tensor([TOKENS]))[0].numpy()


@pytest.fixture(params=["uniform", "pruned", "untied"])
def model(request: pytest.FixtureRequest, random_model: Callable[..., Model]) -> Model:
    shapes = {"layers": (LayerShape(3, 80), LayerShape(4, 48))} if request.param == "pruned" else {}
    return random_model(tie_word_embeddings=request.param != "untied", **shapes)


def test_floats_come_back(model: Model, tmp_path: Path) -> None:
    assert quantization_of(model) is None
    save_model(model, tmp_path / "out")
    with LLM(tmp_path / "out") as llm:
        np.testing.assert_allclose(llm.logits(TOKENS), logits(model), atol=2e-4, rtol=1e-4)
    again = open_model(tmp_path / "out")
    for name, value in model.network.state_dict().items():
        assert torch.equal(again.network.state_dict()[name], value), name


def test_transformers_loads_uniform_floats(
    random_model: Callable[..., Model], tmp_path: Path
) -> None:
    transformers = pytest.importorskip("transformers")
    model = random_model(n_inner=64)
    save_model(model, tmp_path / "out")
    other = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "out").eval()
    with torch.no_grad():
        theirs = other(torch.tensor([TOKENS])).logits[0].numpy()
    np.testing.assert_allclose(theirs, logits(model), atol=2e-4, rtol=1e-4)


def test_mixed_formats_come_back(model: Model, tmp_path: Path) -> None:
    """Most of the blocks int4, one matrix int8, one int3, one left in floats."""
    for name in model.matrix_names():
        set_format(model, name, "int4" if name.startswith("h.") else "int8", 32)
    set_format(model, "h.1.mlp.c_fc.weight", "int8", 64)
    set_format(model, "h.1.attn.c_proj.weight", "int3", 32)
    model.set_weight("h.0.mlp.c_proj.weight", model.weight("h.0.mlp.c_proj.weight"))
    scheme = quantization_of(model)
    assert scheme == Quantization(
        MatrixFormat("int4", 32),
        MatrixFormat("int8", 32),
        (
            ("h.0.mlp.c_proj.weight", MatrixFormat("float32")),
            ("h.1.attn.c_proj.weight", MatrixFormat("int3", 32)),
            ("h.1.mlp.c_fc.weight", MatrixFormat("int8", 64)),
        ),
    )
    save_model(model, tmp_path / "out")
    with open_checkpoint(tmp_path / "out") as checkpoint:
        assert checkpoint.quantization == scheme
        for name, matrix in model.matrices.items():
            stored = checkpoint.tensor(name).float32()
            stored = stored if name in ("wte.weight", "lm_head.weight") else stored.T
            np.testing.assert_array_equal(stored, matrix.dequantize().numpy())
    with LLM(tmp_path / "out", device="torch") as llm:  # the values that integers stand for
        np.testing.assert_allclose(llm.logits(TOKENS), logits(model), atol=2e-4, rtol=1e-4)
    with LLM(tmp_path / "out") as llm:  # activations are rounded, too
        found, exact = llm.logits(TOKENS), logits(model)
        assert np.abs(found - exact).max() < 0.1 * np.abs(exact).max()
        assert np.corrcoef(found.ravel(), exact.ravel())[0, 1] > 0.999


def test_the_input_is_not_touched_and_out_must_be_free(model: Model, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(OptionError, match="give a new name"):
        save_model(model, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.txt"]


def test_tokenizer_and_fields_of_the_original_go_along(demo: Model, tmp_path: Path) -> None:
    set_format(demo, "h.0.mlp.c_fc.weight", "int4", 64)
    save_model(demo, tmp_path / "out")
    fields = json.loads((tmp_path / "out" / "config.json").read_text())
    before = json.loads((demo.source / "config.json").read_text())
    for name in ("n_embd", "n_layer", "vocab_size", "activation_function", "eos_token_id"):
        assert fields[name] == before[name]
    with LLM(tmp_path / "out") as llm:
        assert llm.generate("import os")[0].outputs[0].text


@pytest.mark.parametrize(("stored", "dtype"), [("F16", "float16"), ("BF16", "bfloat16")])
def test_floats_have_the_original_type(
    random_model: Callable[..., Model], tmp_path: Path, stored: str, dtype: str
) -> None:
    model = random_model()
    model.stored = stored
    save_model(model, tmp_path / "out")
    again = open_model(tmp_path / "out")
    assert again.stored == stored
    for name, value in model.network.state_dict().items():
        rounded = value.to(getattr(torch, dtype)).float()
        assert torch.equal(again.network.state_dict()[name], rounded), name
    assert json.loads((tmp_path / "out" / "config.json").read_text())["torch_dtype"] == dtype


def test_what_float16_cannot_hold_is_float32(
    random_model: Callable[..., Model], tmp_path: Path
) -> None:
    model = random_model()
    model.stored = "F16"
    model.network.ln_f.bias[0] = 1e6
    save_model(model, tmp_path / "out")
    assert float(open_model(tmp_path / "out").network.ln_f.bias[0]) == 1e6
