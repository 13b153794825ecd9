"""That the pass does what its options say: each method and option, by what it must bring."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from gpt2fast.compress.calibration.calibration import Calibration
from gpt2fast.compress.quantize import QuantizeOptions, quantize
from gpt2fast.compress.quantize.activations import rounded_activations
from gpt2fast.compress.state.model import CONV1D_PARTS, Model
from gpt2fast.quantization import EMBEDDING, MatrixFormat

from .test_smooth import inject_outliers

INT3, INT4, INT8 = (MatrixFormat("int3", 32), MatrixFormat("int4", 32), MatrixFormat("int8", 32))
FLOAT = MatrixFormat("float32")


@pytest.fixture
def quantized(
    random_model: Callable[..., Model], random_calibration: Callable[..., Calibration]
) -> Callable[..., Model]:
    """Factory: ``quantized(method, **QuantizeOptions fields)`` of one model on one text, with
    embedding and head left alone."""

    def make(method: str, **fields: Any) -> Model:
        model = random_model()
        given = {"blocks": INT3, "head": FLOAT, **fields}
        quantize(model, random_calibration(101, windows=8), QuantizeOptions(method, **given))
        return model

    return make


def errors(model: Model) -> dict[str, float]:
    """Relative squared error of each matrix's outputs, as the pass saw it."""
    found: dict[str, float] = model.history[-1]["relative_error"]
    return found


def test_gptq_loses_least_in_every_matrix_of_the_first_block(
    quantized: Callable[..., Model],
) -> None:
    ours, theirs = errors(quantized("gptq")), errors(quantized("clip"))
    first = [f"h.0.{part}.weight" for part in CONV1D_PARTS]

    assert all(ours[name] < 0.92 * theirs[name] for name in first)


def test_clipping_knows_the_inputs(quantized: Callable[..., Model]) -> None:
    """Of the matrix that sees the same inputs either way."""
    ours, nearest = quantized("clip"), quantized("rtn")
    kept, name = quantized("gptq", blocks=FLOAT), "h.0.attn.c_attn.weight"
    inputs = kept.network.h[0].ln_1(_embedded(kept)).flatten(0, 1)
    exact = inputs @ kept.weight(name).T

    def error(model: Model) -> float:
        own = model.network.h[0].ln_1(_embedded(model)).flatten(0, 1)
        return float((own @ model.weight(name).T - exact).square().mean())

    assert error(ours) < 0.8 * error(nearest)


def _embedded(model: Model) -> torch.Tensor:
    tokens = torch.randint(0, 101, (8, 24), generator=torch.Generator().manual_seed(9))
    return model.network.wte(tokens) + model.network.wpe(torch.arange(24))


def test_awq_moves_factors_and_is_no_worse_than_clipping(quantized: Callable[..., Model]) -> None:
    ours, theirs = quantized("awq", balance=False), quantized("clip", balance=False)
    name = "h.0.attn.c_attn.weight"  # whose inputs are the same
    assert errors(ours)[name] <= errors(theirs)[name] * (1 + 1e-3)
    gains = [model.network.h[0].ln_1.weight for model in (ours, theirs)]
    assert not torch.allclose(*gains)


def test_each_matrix_is_rounded_for_what_those_before_it_in_its_block_leave(
    quantized: Callable[..., Model],
    random_model: Callable[..., Model],
    random_calibration: Callable[..., Calibration],
) -> None:
    """With the values of its first three matrices given, the fourth comes to the same integers."""
    whole, name = quantized("gptq", balance=False), "h.0.mlp.c_proj.weight"
    earlier = [f"h.0.{part}.weight" for part in CONV1D_PARTS[:3]]
    overrides = tuple((each, FLOAT) for each in earlier)
    options = QuantizeOptions("gptq", INT3, FLOAT, balance=False, overrides=overrides)
    fourth = []
    for given in (True, False):
        model = random_model()
        for each in earlier if given else ():
            model.set_weight(each, whole.weight(each))
        quantize(model, random_calibration(101, windows=8), options)
        fourth.append(model.matrices[name].integers)
    assert torch.equal(fourth[0], whole.matrices[name].integers)
    assert not torch.equal(fourth[1], whole.matrices[name].integers)


def test_damping_and_order_have_a_say(quantized: Callable[..., Model]) -> None:
    usual = quantized("gptq").matrices
    for fields in ({"damping": 1.0}, {"act_order": False}):
        other = quantized("gptq", **fields).matrices
        assert any(not torch.equal(usual[n].integers, other[n].integers) for n in usual)


def test_the_head_has_a_method_of_its_own(quantized: Callable[..., Model]) -> None:
    """GPTQ rounds it for what the last LayerNorm gives, clipping for its weights alone."""
    exact = quantized("rtn", blocks=FLOAT)
    inputs, weight = exact.network.ln_f(_states(exact)).flatten(0, 1), exact.weight(EMBEDDING)
    found = {}
    for method in ("gptq", "clip"):
        model = quantized("rtn", blocks=FLOAT, head=INT3, head_method=method)
        found[method] = float((inputs @ (model.weight(EMBEDDING) - weight).T).square().mean())
    assert found["gptq"] < 0.8 * found["clip"]


def _states(model: Model) -> torch.Tensor:
    x = _embedded(model)
    for block in model.network.h:
        x = block(x)
    return x


@pytest.mark.parametrize("size", [20.0, 50.0, 100.0])
def test_smoothing_undoes_outliers(
    size: float,
    random_model: Callable[..., Model],
    random_calibration: Callable[..., Calibration],
) -> None:
    """Weights and activations in 8 bits, without the loader's factors."""
    text = random_calibration(101, windows=8)
    tokens = torch.from_numpy(text.windows)
    exact = random_model().network(tokens).log_softmax(-1)
    found = {}
    for smooth in (None, 0.5):
        model = random_model()
        inject_outliers(model, size)
        quantize(model, text, QuantizeOptions("rtn", INT8, FLOAT, balance=False, smooth=smooth))
        with rounded_activations(model):
            logs = model.network(tokens).log_softmax(-1)
        found[smooth] = float(F.kl_div(logs, exact, log_target=True, reduction="batchmean"))
    assert found[0.5] < 0.2 * found[None]


def test_the_exponent_of_smoothing_is_that_of_the_inputs(
    random_model: Callable[..., Model], random_calibration: Callable[..., Calibration]
) -> None:
    """At 1 the largest input of every channel is 1, at 0 the largest weight is."""
    text = random_calibration(101, windows=8)
    for alpha in (0.0, 1.0):
        model = random_model()
        options = QuantizeOptions(
            "rtn",
            FLOAT,
            INT8,
            balance=False,
            smooth=alpha,
            overrides=(("h.0.mlp.c_fc.weight", INT8),),
        )
        before = random_model().network.h[0].ln_2
        quantize(model, text, options)
        after = model.network.h[0].ln_2
        factors = before.weight / after.weight
        weight = random_model().network.h[0].mlp.c_fc.weight
        largest = (weight * factors[:, None]).abs().amax(1)
        assert (alpha == 0.0) == bool(torch.allclose(largest, torch.ones(32), rtol=1e-4))
