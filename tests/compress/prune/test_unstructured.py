"""Zeros in a whole model: as many as asked for, block by block, and the better the method the
smaller the loss."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
import torch

from gpt2fast.compress.calibration.calibration import Calibration
from gpt2fast.compress.prune import WeightOptions, prune_weights, sparsity
from gpt2fast.compress.prune.unstructured import METHODS
from gpt2fast.compress.state.model import Model, QuantizedMatrix
from gpt2fast.errors import CheckpointError, OptionError
from gpt2fast.quantization import MatrixFormat

Make = Callable[..., Any]


@pytest.fixture
def model(random_model: Make) -> Model:
    made: Model = random_model()
    return made


@pytest.fixture
def calibration(random_calibration: Make) -> Calibration:
    made: Calibration = random_calibration(101)
    return made


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("wanted", [0.5, 0.25])
def test_as_sparse_as_asked_for(
    model: Model, calibration: Calibration, method: str, wanted: float
) -> None:
    others = {k: v.clone() for k, v in model.network.state_dict().items() if "." not in k[:3]}
    prune_weights(model, calibration, WeightOptions(method, wanted))
    names = [name for name in model.matrix_names() if name.startswith("h.")]
    for name in names:
        zeros = model.weight(name) == 0
        assert int(zeros.sum()) == pytest.approx(wanted * zeros.numel(), abs=1)
    assert sparsity(model) == model.history[0]["reached"] == pytest.approx(wanted, abs=1e-4)
    state = model.network.state_dict()
    assert all(torch.equal(state[name], value) for name, value in others.items())
    json.dumps(model.history)


@pytest.mark.parametrize("method", METHODS)
def test_two_of_four(model: Model, calibration: Calibration, method: str) -> None:
    prune_weights(model, calibration, WeightOptions(method, pattern="2:4"))
    for name in model.matrix_names()[1:]:
        groups = model.weight(name).unflatten(1, (-1, 4))
        assert ((groups == 0).sum(-1) == 2).all(), name
    assert sparsity(model) == 0.5


def test_later_blocks_see_what_the_earlier_ones_became(
    model: Model, calibration: Calibration
) -> None:
    """A first block that is pruned already gives the second the same result."""
    once = copy.deepcopy(model)
    prune_weights(once, calibration, WeightOptions("wanda", 0.5))
    with torch.no_grad():
        for part in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"):
            name = f"h.0.{part}.weight"
            model.set_weight(name, once.weight(name))
    prune_weights(model, calibration, WeightOptions("wanda", 0.5))
    assert all(torch.equal(model.weight(name), once.weight(name)) for name in model.matrix_names())


def test_errors_of_outputs_fall_with_better_methods(model: Model, calibration: Calibration) -> None:
    errors = {}
    for method in METHODS:
        pruned = copy.deepcopy(model)
        prune_weights(pruned, calibration, WeightOptions(method, 0.5))
        errors[method] = sum(pruned.history[0]["layers"][0]["error"].values())
    assert errors["sparsegpt"] < errors["wanda"] < errors["random"]
    assert errors["magnitude"] < errors["random"]


def test_random_is_the_seeds(model: Model, calibration: Calibration) -> None:
    pruned = [copy.deepcopy(model) for _ in range(3)]
    for each, seed in zip(pruned, (0, 0, 1), strict=True):
        prune_weights(each, calibration, WeightOptions("random", seed=seed))
    first, again, other = (each.weight("h.0.mlp.c_fc.weight") for each in pruned)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize(
    "fields",
    [
        {"method": "luck"},
        {"sparsity": 1.0},
        {"pattern": "4:2"},
        {"damping": -1.0},
        {"norm_power": float("nan")},
    ],
    ids=str,
)
def test_options_that_are_none_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match=next(iter(fields))):
        WeightOptions(**fields)


def test_a_quantized_model_is_refused(model: Model, calibration: Calibration) -> None:
    matrix = QuantizedMatrix(torch.zeros(1), torch.zeros(1), MatrixFormat("int8", 0))
    model.matrices["h.0.attn.c_attn.weight"] = matrix
    with pytest.raises(OptionError, match="prune before quantizing"):
        prune_weights(model, calibration)


@pytest.mark.parametrize("method", METHODS)
def test_nan_names_the_matrix_and_leaves_the_model(
    model: Model, calibration: Calibration, method: str
) -> None:
    model.network.get_parameter("h.0.ln_2.weight")[3] = float("nan")
    before = model.network
    with pytest.raises(CheckpointError, match=r"h\.0\.mlp\.c_fc"):
        prune_weights(model, calibration, WeightOptions(method))
    assert model.network is before
    assert not model.history
