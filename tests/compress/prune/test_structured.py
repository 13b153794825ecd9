"""Heads and neurons that are removed for real: what is left computes what it should."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gpt2fast import LLM, SamplingParams
from gpt2fast.checkpoint.names import expected_shapes
from gpt2fast.compress.calibration.calibration import Calibration
from gpt2fast.compress.progress import quiet
from gpt2fast.compress.prune import HeadOptions, NeuronOptions, prune_heads, prune_neurons
from gpt2fast.compress.prune.importance import IMPORTANCES, importance
from gpt2fast.compress.prune.structured import StructuredOptions, remove_units
from gpt2fast.compress.prune.units import HEADS, NEURONS, Units
from gpt2fast.compress.quantize import QuantizeOptions, quantize
from gpt2fast.compress.state.artifact import save_model
from gpt2fast.compress.state.model import Model, QuantizedMatrix
from gpt2fast.errors import CheckpointError, OptionError
from gpt2fast.quantization import MatrixFormat

INT8 = MatrixFormat("int8", 32)
PLAIN = StructuredOptions(reconstruct=False)
Make = Callable[..., Any]


@pytest.fixture
def model(random_model: Make) -> Model:
    made: Model = random_model()
    return made


@pytest.fixture
def calibration(random_calibration: Make) -> Calibration:
    made: Calibration = random_calibration(101)
    return made


def logits(model: Model, calibration: Calibration) -> torch.Tensor:
    with torch.no_grad():
        return model.network(torch.from_numpy(calibration.windows))


def loss_of_logits(model: Model, exact: torch.Tensor, calibration: Calibration) -> float:
    return float((logits(model, calibration) - exact).square().mean())


@pytest.mark.parametrize("units", [HEADS, NEURONS], ids=["heads", "neurons"])
def test_what_is_removed_is_what_zeros_would_mask(
    model: Model, calibration: Calibration, units: Units
) -> None:
    generator = torch.Generator().manual_seed(0)
    counts = [units.count(model.config, layer) for layer in range(2)]
    kept = [
        torch.randperm(count, generator=generator)[: size * count // 4].sort().values
        for count, size in zip(counts, (3, 1), strict=True)
    ]
    masked = copy.deepcopy(model)
    for layer, stay in enumerate(kept):
        weight = masked.network.get_parameter(f"h.{layer}.{units.projection}.weight")
        gone = torch.ones(len(weight), dtype=torch.bool)
        gone[units.rows(model.config, stay)] = False
        weight[gone] = 0
    entries = remove_units(model, calibration, units, kept, PLAIN, quiet)
    assert [(e["kept"], e["of"]) for e in entries] == [
        (len(k), c) for k, c in zip(kept, counts, strict=True)
    ]
    torch.testing.assert_close(
        logits(model, calibration), logits(masked, calibration), rtol=0, atol=1e-5
    )
    state = {name: tuple(tensor.shape) for name, tensor in model.network.state_dict().items()}
    assert state == expected_shapes(model.config)
    assert model.config.num_parameters < masked.config.num_parameters


@pytest.mark.parametrize("method", IMPORTANCES)
@pytest.mark.parametrize("units", [HEADS, NEURONS], ids=["heads", "neurons"])
def test_what_adds_nothing_is_worth_nothing_and_can_go(
    model: Model, calibration: Calibration, units: Units, method: str
) -> None:
    silent = torch.tensor([1])
    weight = model.network.get_parameter(f"h.1.{units.projection}.weight")
    weight[units.rows(model.config, silent)] = 0
    before = logits(model, calibration)
    scores = importance(model, calibration, units, method, quiet)
    assert int(scores[1].argmin()) == 1
    assert float(scores[1][1]) < 1e-12 < float(scores[0].min())
    count = units.count(model.config, 1)
    kept = [torch.arange(count), torch.tensor([i for i in range(count) if i != 1])]
    remove_units(model, calibration, units, kept, StructuredOptions(), quiet)
    torch.testing.assert_close(logits(model, calibration), before, rtol=0, atol=1e-4)


@pytest.mark.parametrize("prune", [(prune_heads, HeadOptions), (prune_neurons, NeuronOptions)])
@pytest.mark.parametrize("method", IMPORTANCES)
def test_reconstruction_is_nearer_in_every_layer(
    model: Model, calibration: Calibration, prune: tuple[Any, Any], method: str
) -> None:
    function, options = prune
    exact = logits(model, calibration)
    plain = copy.deepcopy(model)
    function(plain, calibration, options(keep=0.5, importance=method, reconstruct=False))
    function(model, calibration, options(keep=0.5, importance=method, ridge=1e-6))
    layers = model.history[0]["layers"]
    removed = [layer for layer in layers if layer["kept"] < layer["of"]]
    assert removed
    assert all(layer["error"] < layer["error_unreconstructed"] for layer in removed)
    assert loss_of_logits(model, exact, calibration) < loss_of_logits(plain, exact, calibration)
    json.dumps(model.history)


def test_gradients_are_those_of_the_loss(model: Model, calibration: Calibration) -> None:
    """The change when a unit fades by a thousandth, a window at a time."""
    scores = importance(model, calibration, HEADS, "gradient", quiet)
    tokens = torch.from_numpy(calibration.windows)

    def losses(network: torch.nn.Module) -> torch.Tensor:
        with torch.no_grad():
            found = network(tokens[:, :-1]).double().transpose(1, 2)
        return torch.nn.functional.cross_entropy(found, tokens[:, 1:], reduction="none").mean(1)

    network = copy.deepcopy(model.network).double()
    exact = losses(network)
    rows = HEADS.rows(model.config, torch.tensor([2]))
    network.get_parameter("h.0.attn.c_proj.weight")[rows] *= 1 - 1e-4
    slope = (losses(network) - exact) / 1e-4
    assert float(scores[0][2]) == pytest.approx(float(slope.abs().mean()), rel=1e-2)


def test_a_pruned_model_trains_and_has_canonical_names(
    model: Model, calibration: Calibration
) -> None:
    prune_heads(model, calibration, HeadOptions(keep=0.5))
    prune_neurons(model, calibration, NeuronOptions(keep=0.5))
    shapes = expected_shapes(model.config)
    assert {name: tuple(p.shape) for name, p in model.network.state_dict().items()} == shapes
    network = model.network.train().requires_grad_(True)
    tokens = torch.from_numpy(calibration.windows)
    network(tokens).logsumexp(-1).mean().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert name == "wte.weight" or name == "wpe.weight" or bool((parameter.grad != 0).any())


def test_twice_in_a_row(model: Model, calibration: Calibration) -> None:
    """Layers of different shapes can lose more."""
    for keep in (0.75, 0.5):
        prune_neurons(model, calibration, NeuronOptions(keep=keep))
        prune_heads(model, calibration, HeadOptions(keep=keep))
    assert sum(shape.n_head for shape in model.config.layer_shapes) == 3
    assert bool(logits(model, calibration).isfinite().all())
    assert [entry["pass"] for entry in model.history] == ["prune_neurons", "prune_heads"] * 2


@pytest.mark.parametrize("multiple", [16, 8])
def test_counts_are_multiples(model: Model, calibration: Calibration, multiple: int) -> None:
    prune_neurons(model, calibration, NeuronOptions(keep=0.6, multiple=multiple))
    counts = [shape.n_inner for shape in model.config.layer_shapes]
    assert all(count % multiple == 0 for count in counts)
    assert 0.6 * 192 - multiple < sum(counts) <= 0.6 * 192


def test_stock_transformers_loads_uniform_shapes(
    model: Model, calibration: Calibration, tmp_path: Path
) -> None:
    transformers = pytest.importorskip("transformers")
    prune_neurons(model, calibration, NeuronOptions(keep=0.5, uniform=True))
    assert not model.config.layers
    assert model.config.n_inner == 48
    save_model(model, tmp_path / "out")
    theirs = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "out").eval()
    with torch.no_grad():
        found = theirs(torch.from_numpy(calibration.windows)).logits
    torch.testing.assert_close(found, logits(model, calibration), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("device", ["cpu", "torch"])
def test_runners_load_what_was_pruned(
    model: Model, calibration: Calibration, tmp_path: Path, device: str
) -> None:
    """Layers of different shapes, in floats and in 8 bits, whole and token by token."""
    prune_heads(model, calibration, HeadOptions(keep=0.6))
    prune_neurons(model, calibration, NeuronOptions(keep=0.6, multiple=1))
    assert len(set(model.config.layer_shapes)) > 1
    save_model(model, tmp_path / "floats")
    expected = logits(model, calibration)[0].numpy()
    tokens = calibration.windows[0].tolist()
    with LLM(tmp_path / "floats", device=device) as llm:
        np.testing.assert_allclose(llm.logits(tokens), expected, atol=2e-4, rtol=1e-4)
        greedy = SamplingParams(max_tokens=6, temperature=0.0, ignore_eos=True)
        ids = tokens[:4]
        for token in llm.generate(ids, greedy)[0].outputs[0].token_ids:
            assert token == int(model.network(torch.tensor([ids]))[0, -1].argmax())
            ids = [*ids, token]
    quantize(model, calibration, QuantizeOptions("rtn", INT8, INT8, head_method="rtn"))
    save_model(model, tmp_path / "int8")
    with LLM(tmp_path / "int8", device=device) as llm:
        found = llm.logits(tokens)
    exact = logits(model, calibration)[0].numpy()
    assert np.abs(found - exact).max() < 0.05 * np.abs(exact).max()


def test_uniform_heads_are_refused() -> None:
    with pytest.raises(OptionError, match="head size"):
        HeadOptions(uniform=True)


@pytest.mark.parametrize(
    "fields",
    [{"keep": 0.0}, {"keep": 1.5}, {"importance": "luck"}, {"ridge": -1.0}, {"multiple": 0}],
    ids=str,
)
def test_options_that_are_none_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match=next(iter(fields))):
        NeuronOptions(**fields)


def test_a_quantized_model_is_refused(model: Model, calibration: Calibration) -> None:
    matrix = QuantizedMatrix(torch.zeros(1), torch.zeros(1), MatrixFormat("int8", 0))
    model.matrices["h.0.attn.c_attn.weight"] = matrix
    with pytest.raises(OptionError, match="prune before quantizing"):
        prune_heads(model, calibration)


@pytest.mark.parametrize("method", IMPORTANCES)
def test_nan_names_the_layer_and_leaves_the_model(
    model: Model, calibration: Calibration, method: str
) -> None:
    model.network.get_parameter("h.1.mlp.c_fc.weight")[0, 0] = float("inf")
    before = copy.deepcopy(model.network.state_dict())
    with pytest.raises(CheckpointError, match=r"h\.[01]"):
        prune_neurons(model, calibration, NeuronOptions(importance=method))
    assert not model.history
    after = model.network.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
