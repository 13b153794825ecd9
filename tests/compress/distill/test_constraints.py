"""Weights in training that keep to a grid, or stay zero."""

from __future__ import annotations

from collections.abc import Callable

import pytest

torch = pytest.importorskip("torch")

from gpt2fast.compress.distill.constraints import (  # noqa: E402
    Constrained,
    Constraint,
    KeepZeros,
    OnGrid,
    on_grids,
    quantization_aware,
)
from gpt2fast.compress.state.model import Model, QuantizedMatrix  # noqa: E402
from gpt2fast.errors import OptionError  # noqa: E402
from gpt2fast.kernels import reference  # noqa: E402
from gpt2fast.quantization import MatrixFormat  # noqa: E402

IDS = torch.tensor([[1, 5, 9, 60, 2, 44]])
FC, PROJECTION = "h.0.mlp.c_fc.weight", "h.1.attn.c_proj.weight"
INT4 = MatrixFormat("int4", 32)


def steps(model: Constrained, count: int) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1)
    for _ in range(count):
        optimizer.zero_grad()
        model(IDS).square().mean().backward()
        optimizer.step()


@pytest.mark.parametrize("name", [FC, "wte.weight"])
@pytest.mark.parametrize("form", [INT4, MatrixFormat("int8", 64)])
def test_the_network_computes_with_the_grid_of_rounding_to_nearest(
    random_model: Callable[..., Model], name: str, form: MatrixFormat
) -> None:
    model = random_model()
    parameter = model.network.get_parameter(name)
    grid = quantization_aware(model.network, {name: form})[name]
    rows = parameter if name == "wte.weight" else parameter.T
    nearest = reference.store_matrix(rows, form.name, form.group_size)
    expected = nearest if name == "wte.weight" else nearest.T
    assert torch.equal(grid(parameter), expected)
    seen = Constrained(model.network, {name: grid})(IDS)
    assert not torch.equal(seen, model.network(IDS))
    with torch.no_grad():
        parameter.copy_(expected)
    assert torch.equal(seen, model.network(IDS)), "the tied head too"


def test_training_ends_on_the_grid_and_moves_on_it(random_model: Callable[..., Model]) -> None:
    model = random_model()
    network = model.network.requires_grad_(True)
    grids = quantization_aware(network, {FC: INT4, "wte.weight": INT4})
    before = {name: grid.matrix(network.get_parameter(name)) for name, grid in grids.items()}
    constrained = Constrained(network, grids)
    steps(constrained, 20)
    logits = constrained(IDS)
    constrained.apply_constraints()
    torch.testing.assert_close(network(IDS), logits)
    for name, grid in grids.items():
        parameter = network.get_parameter(name)
        matrix = grid.matrix(parameter)
        values = matrix.dequantize()
        assert torch.equal(values if name == "wte.weight" else values.T, parameter)
        assert torch.equal(matrix.scales, before[name].scales)
        assert not torch.equal(matrix.integers, before[name].integers)
        assert matrix.integers.min() >= -8
        assert matrix.integers.max() <= 7


def test_gradients_pass_the_rounding(random_model: Callable[..., Model]) -> None:
    network = random_model().network.requires_grad_(True)
    constrained = Constrained(network, quantization_aware(network, {FC: INT4}))
    constrained(IDS).square().mean().backward()
    through = network.get_parameter(FC).grad
    constrained.apply_constraints()
    network.zero_grad()
    network(IDS).square().mean().backward()
    assert torch.equal(through, network.get_parameter(FC).grad)


def test_a_matrix_that_is_quantized_is_met_exactly(random_model: Callable[..., Model]) -> None:
    """Scales that rounding to nearest would not choose, as GPTQ's and clipped ones are."""
    model = random_model()
    generator = torch.Generator().manual_seed(0)
    integers = torch.randint(-8, 8, (96, 32), generator=generator, dtype=torch.int8)
    scales = (torch.rand(96, 1, generator=generator) * 0.1).bfloat16().float()
    scales[3] = 0.0
    integers[3] = 0
    model.set_quantized(FC, QuantizedMatrix(integers, scales, INT4))
    grid = on_grids(model.matrices)[FC]
    weight = model.network.get_parameter(FC)
    assert torch.equal(grid(weight), weight)
    assert torch.equal(grid.matrix(weight).integers, integers)


def test_zeros_stay(random_model: Callable[..., Model]) -> None:
    network = random_model().network
    parameter = network.get_parameter(PROJECTION)
    generator = torch.Generator().manual_seed(0)
    pruned = torch.rand(parameter.shape, generator=generator) < 0.5
    parameter.masked_fill_(pruned, 0.0)
    before = parameter.clone()
    network.requires_grad_(True)
    constraints: dict[str, Constraint] = {PROJECTION: KeepZeros(parameter)}
    constrained = Constrained(network, constraints)
    steps(constrained, 10)
    constrained.apply_constraints()
    after = network.get_parameter(PROJECTION)
    assert torch.equal(after == 0, pruned)
    assert not torch.equal(after, before)


def test_floats_have_no_grid() -> None:
    matrix = QuantizedMatrix(torch.zeros(2, 2), torch.zeros(2, 1), MatrixFormat("bfloat16"))
    with pytest.raises(OptionError, match="on the grid of bfloat16"):
        OnGrid(matrix, True)
