"""The pass over a whole model."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from gpt2fast import LLM
from gpt2fast.compress.calibration.calibration import Calibration
from gpt2fast.compress.quantize import QuantizeOptions, quantize
from gpt2fast.compress.state.artifact import save_model
from gpt2fast.compress.state.model import Model
from gpt2fast.errors import GPT2FastError, OptionError
from gpt2fast.quantization import EMBEDDING, HEAD, MatrixFormat

INT3, INT4, INT8 = (MatrixFormat("int3", 32), MatrixFormat("int4", 32), MatrixFormat("int8", 64))
FLOAT = MatrixFormat("float32")
MakeModel = Callable[..., Model]
MakeText = Callable[..., Calibration]


@pytest.mark.parametrize("method", ["rtn", "clip", "awq", "gptq"])
@pytest.mark.parametrize("tied", [True, False])
def test_every_matrix_is_what_its_integers_say(
    method: str, tied: bool, random_model: MakeModel, random_calibration: MakeText
) -> None:
    model = random_model(tie_word_embeddings=tied)
    steps: list[tuple[str, int, int]] = []
    options = QuantizeOptions(method, INT3, INT8, "gptq" if method == "gptq" else "clip")
    text = random_calibration(101)
    quantize(model, text, options, lambda *step: steps.append(step))
    assert model.matrices.keys() == set(model.matrix_names())
    for name, matrix in model.matrices.items():
        assert matrix.format == (INT8 if name in (EMBEDDING, HEAD) else INT3)
        assert torch.equal(matrix.dequantize(), model.weight(name))
    assert [done for _, done, _ in steps] == [1, 2, 3, 4]
    (record,) = model.history
    assert record["relative_error"].keys() == model.matrices.keys()
    assert all(0 < error < 0.2 for error in record["relative_error"].values())
    assert record["calibration_tokens"] == (0 if method == "rtn" else text.num_tokens)


def test_what_is_saved_is_what_was_calibrated(
    random_model: MakeModel, random_calibration: MakeText, tmp_path: Path
) -> None:
    model, tokens = random_model(), [1, 5, 9, 100]
    own = (("h.0.attn.c_attn.weight", FLOAT), ("h.1.mlp.c_proj.weight", INT8))
    quantize(model, random_calibration(101), QuantizeOptions("gptq", INT4, INT8, overrides=own))
    save_model(model, tmp_path / "out")
    wanted = model.network(torch.tensor([tokens]))[0].numpy()
    with LLM(tmp_path / "out", device="torch") as llm:
        np.testing.assert_allclose(llm.logits(tokens), wanted, atol=1e-4, rtol=1e-4)
    with LLM(tmp_path / "out") as llm:  # activations are rounded to 8 bits
        assert np.abs(llm.logits(tokens) - wanted).max() < 0.05 * np.abs(wanted).max()


def test_overrides_leave_matrices_alone(
    random_model: MakeModel, random_calibration: MakeText
) -> None:
    model, original = random_model(), random_model()
    own = (("h.0.attn.c_attn.weight", FLOAT), ("h.1.mlp.c_proj.weight", INT8))
    options = QuantizeOptions("awq", INT3, FLOAT, overrides=own)
    quantize(model, random_calibration(101), options)
    assert model.matrices.keys() == set(model.matrix_names()) - {EMBEDDING, own[0][0]}
    assert model.matrices[own[1][0]].format == INT8
    assert torch.equal(model.network.wte.weight, original.network.wte.weight)
    wrong = QuantizeOptions("clip", overrides=(("h.9.attn.c_attn.weight", FLOAT),))
    with pytest.raises(OptionError, match=r"h\.9\.attn"):
        quantize(model, None, wrong)


@pytest.mark.parametrize("method", ["awq", "gptq"])
def test_a_pass_that_was_interrupted_comes_to_the_same_integers(
    method: str, random_model: MakeModel, random_calibration: MakeText
) -> None:
    whole, stopped, text = random_model(n_layer=3), random_model(n_layer=3), random_calibration(101)
    options = QuantizeOptions(method, INT3, smooth=0.5)
    quantize(whole, text, options)
    kept: list[Model] = []

    def stop(what: str, _done: int, _total: int) -> None:
        kept.append(copy.deepcopy(stopped))
        if what == "h.1":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        quantize(stopped, text, options, stop)
    for resumed in kept:
        quantize(resumed, text, options)
        for name, matrix in whole.matrices.items():
            assert torch.equal(resumed.matrices[name].integers, matrix.integers)
        for name, parameter in whole.network.named_parameters():
            assert torch.equal(resumed.network.get_parameter(name), parameter)


def test_later_blocks_are_rounded_for_what_earlier_ones_became(
    random_model: MakeModel, random_calibration: MakeText
) -> None:
    coarse, fine, text = random_model(), random_model(), random_calibration(101)
    own = (("h.0.mlp.c_fc.weight", INT8),)
    quantize(coarse, text, QuantizeOptions(blocks=INT3))
    quantize(fine, text, QuantizeOptions(blocks=INT3, overrides=own))
    first, last = "h.0.attn.c_attn.weight", "h.1.mlp.c_fc.weight"
    assert torch.equal(coarse.matrices[first].integers, fine.matrices[first].integers)
    assert not torch.equal(coarse.matrices[last].integers, fine.matrices[last].integers)


def test_numbers_that_are_not_finite_are_named(
    random_model: MakeModel, random_calibration: MakeText
) -> None:
    model = random_model()
    model.network.h[1].mlp.c_fc.weight[3, 5] = torch.nan
    with pytest.raises(GPT2FastError, match=r"h\.1\.mlp\.c_fc\.weight: its weights"):
        quantize(model, random_calibration(101), QuantizeOptions())
    model = random_model()
    model.network.h[0].ln_2.bias[0] = torch.inf
    with pytest.raises(GPT2FastError, match=r"h\.0\.mlp\.c_fc\.weight: its inputs"):
        quantize(model, random_calibration(101), QuantizeOptions())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"method": "best"}, "method = 'best'"),
        ({"head_method": "awq"}, "head_method"),
        ({"blocks": MatrixFormat("fp8", 64)}, "cannot be made fp8-g64"),
        ({"smooth": 1.5}, "smooth = 1.5"),
        ({"damping": -0.1}, "damping"),
    ],
)
def test_options_out_of_range(fields: dict[str, object], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        QuantizeOptions(**fields)  # type: ignore[arg-type]


def test_text_is_needed(random_model: MakeModel) -> None:
    with pytest.raises(OptionError, match="needs text"):
        quantize(random_model(), None, QuantizeOptions("gptq"))
    quantize(random_model(), None, QuantizeOptions("clip"))
