"""Layers that go, and layers that stay as they were."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from gpt2fast.checkpoint.names import expected_shapes
from gpt2fast.compress.calibration.calibration import Calibration
from gpt2fast.compress.prune import LayerOptions, prune_layers
from gpt2fast.compress.prune.layers import block_influence, keep_layers, losses_without
from gpt2fast.compress.state.model import Model
from gpt2fast.config import LayerShape
from gpt2fast.errors import CheckpointError, OptionError

Make = Callable[..., Any]


@pytest.fixture
def calibration(random_calibration: Make) -> Calibration:
    made: Calibration = random_calibration(101)
    return made


def silence(model: Model, layer: int) -> None:
    """Make ``layer`` the identity."""
    for part in ("attn", "mlp"):
        for kind in ("weight", "bias"):
            model.network.get_parameter(f"h.{layer}.{part}.c_proj.{kind}").zero_()


def skipping(model: Model, kept: list[int], calibration: Calibration) -> torch.Tensor:
    """Logits of the same blocks, some of them left out."""
    network = copy.deepcopy(model.network)
    network.h = nn.ModuleList(network.h[i] for i in kept)
    with torch.no_grad():
        return network(torch.from_numpy(calibration.windows))


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("kept", [[0, 1, 3], [2], [3, 0, 2]])
def test_the_kept_layers_compute_what_they_did(
    random_model: Make, calibration: Calibration, inverse: bool, kept: list[int]
) -> None:
    model = random_model(n_layer=4, scale_attn_by_inverse_layer_idx=inverse)
    new = keep_layers(model.network, kept)
    assert {k: tuple(v.shape) for k, v in new.state_dict().items()} == expected_shapes(new.config)
    with torch.no_grad():
        found = new(torch.from_numpy(calibration.windows))
    torch.testing.assert_close(found, skipping(model, kept, calibration), rtol=1e-5, atol=1e-5)
    assert not any(
        p.data_ptr() == q.data_ptr()
        for p, q in zip(new.parameters(), model.network.parameters(), strict=False)
    ), "the network it was made from may change"


def test_layers_of_different_shapes_keep_them(random_model: Make) -> None:
    shapes = (LayerShape(4, 96), LayerShape(2, 48), LayerShape(3, 16))
    model = random_model(n_layer=3, layers=shapes, scale_attn_by_inverse_layer_idx=True)
    assert keep_layers(model.network, [1, 2]).config.layer_shapes == shapes[1:]


@pytest.mark.parametrize("method", ["loss", "influence"])
def test_a_layer_that_does_nothing_goes_first(
    random_model: Make, calibration: Calibration, method: str
) -> None:
    model = random_model(n_layer=4)
    silence(model, 2)
    assert block_influence(model.network, calibration)[2] == pytest.approx(0, abs=1e-6)
    before = skipping(model, [0, 1, 2, 3], calibration)
    if method == "loss":  # of random weights any other could go: compare what it costs
        losses = losses_without(model.network, range(4), calibration)
        full = torch.nn.functional.cross_entropy(
            before[:, :-1].flatten(0, 1), torch.from_numpy(calibration.windows[:, 1:]).flatten()
        )
        assert losses[2] == pytest.approx(float(full), rel=1e-6)
        return
    prune_layers(model, calibration, LayerOptions(method=method))
    assert model.history[0]["removed"] == [2]
    torch.testing.assert_close(skipping(model, [0, 1, 2], calibration), before)


def test_loss_takes_the_best_of_what_is_left_each_time(
    random_model: Make, calibration: Calibration
) -> None:
    model = random_model(n_layer=4)
    first = losses_without(model.network, range(4), calibration)
    one = min(first, key=first.__getitem__)
    left = [i for i in range(4) if i != one]
    second = losses_without(model.network, left, calibration)
    two = min(second, key=second.__getitem__)
    prune_layers(model, calibration, LayerOptions(remove=2))
    entry = model.history[0]
    assert [step["layer"] for step in entry["measured"]] == [one, two]
    assert entry["measured"][1]["loss"] == pytest.approx(second[two])
    tokens = torch.from_numpy(calibration.windows)
    with torch.no_grad():
        found = model.network(tokens[:, :-1])
    loss = torch.nn.functional.cross_entropy(found.flatten(0, 1), tokens[:, 1:].flatten())
    assert float(loss) == pytest.approx(second[two], rel=1e-5)


def test_chosen_layers(random_model: Make, calibration: Calibration) -> None:
    model = random_model(n_layer=4)
    expected = skipping(model, [1, 2], calibration)
    prune_layers(model, calibration, LayerOptions(layers=(3, 0)))
    assert model.config.n_layer == 2
    torch.testing.assert_close(skipping(model, [0, 1], calibration), expected)


@pytest.mark.parametrize(
    "fields", [{"remove": 2}, {"layers": (0, 1)}, {"layers": (2,)}, {"remove": 3}], ids=str
)
def test_what_cannot_be_removed_is_refused(
    random_model: Make, calibration: Calibration, fields: dict[str, Any]
) -> None:
    model = random_model()
    with pytest.raises(OptionError, match=r"layers cannot be removed|there is no layer 2"):
        prune_layers(model, calibration, LayerOptions(**fields))
    assert model.config.n_layer == 2
    assert not model.history


@pytest.mark.parametrize(
    "fields", [{"remove": 0}, {"layers": (1, 1)}, {"layers": (-1,)}, {"method": "luck"}], ids=str
)
def test_options_that_are_none_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(OptionError):
        LayerOptions(**fields)


@pytest.mark.parametrize("method", ["loss", "influence"])
def test_nan_names_the_layer(random_model: Make, calibration: Calibration, method: str) -> None:
    model = random_model()
    model.network.get_parameter("h.1.mlp.c_proj.bias")[0] = float("nan")
    with pytest.raises(CheckpointError, match=r"h\.1 "):
        prune_layers(model, calibration, LayerOptions(method=method))
