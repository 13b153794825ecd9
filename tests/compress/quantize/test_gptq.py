"""GPTQ is what its paper says, and the parts of it do what they are there for."""

from __future__ import annotations

from statistics import geometric_mean, median

import pytest
import torch
from torch import Tensor

from gpt2fast.compress.quantize.gptq import GptqOptions, gptq
from gpt2fast.compress.quantize.grid import inverse
from gpt2fast.compress.quantize.inputs import output_error
from gpt2fast.compress.quantize.rtn import round_to_nearest
from gpt2fast.quantization import INTEGER_RANGES, MatrixFormat

PLAIN = GptqOptions(clip=False)
EXACT = GptqOptions(damping=0.0, clip=False)


def correlated(inputs: int, rows: int = 400, seed: int = 0) -> Tensor:
    """Inputs (rows, K) that go together and differ in size."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(inputs, inputs, generator=generator) / inputs**0.5
    sizes = torch.rand(inputs, generator=generator).exp()
    return (torch.randn(rows, inputs, generator=generator) @ (mix + 0.3)) * sizes


def hessian_of(x: Tensor) -> Tensor:
    return 2.0 * x.double().T @ x.double() / len(x)


def normal(outputs: int, inputs: int, seed: int = 0) -> Tensor:
    return torch.randn(outputs, inputs, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", ["int8", "int4", "int3"])
@pytest.mark.parametrize("act_order", [True, False])
def test_independent_inputs_make_it_rounding_to_nearest(name: str, act_order: bool) -> None:
    weight, form = normal(24, 300), MatrixFormat(name, 64)
    hessian = torch.rand(300, generator=torch.Generator().manual_seed(1)).double().diag()
    hessian[7, 7] = 0.0  # an input that never fired
    options = GptqOptions(damping=0.01, act_order=act_order, clip=False)
    matrix, nearest = gptq(weight, hessian, form, options), round_to_nearest(weight, form)
    assert torch.equal(matrix.integers, nearest.integers)
    assert torch.equal(matrix.scales, nearest.scales)


def brute_force(row: Tensor, scale: float, hessian: Tensor, form: MatrixFormat) -> float:
    low, high = INTEGER_RANGES[form.name]
    choices = torch.cartesian_prod(*[torch.arange(low, high + 1)] * len(row))
    errors = choices.double() * scale - row.double()
    return float(((errors @ hessian) * errors).sum(-1).min())


@pytest.mark.parametrize("inputs", [3, 5, 6])
def test_near_the_optimum_where_all_choices_can_be_tried(inputs: int) -> None:
    form, to_best, to_nearest = MatrixFormat("int3", 32), [], []
    for seed in range(16):
        weight, hessian = normal(1, inputs, seed), hessian_of(correlated(inputs, seed=seed))
        matrix, simple = gptq(weight, hessian, form, EXACT), round_to_nearest(weight, form)
        best = brute_force(weight[0], float(matrix.scales), hessian, form)
        error = output_error(matrix.dequantize() - weight, hessian)
        assert error >= best * (1 - 1e-5)
        to_best.append(error / best)
        to_nearest.append(error / output_error(simple.dequantize() - weight, hessian))
    assert median(to_best) <= 1.05, to_best
    assert geometric_mean(to_nearest) <= 0.95, to_nearest


def test_columns_left_are_the_exact_least_squares_solution() -> None:
    """The first 32 inputs are rounded coarsely, the rest so finely that it hardly counts: what the
    rest become must be what least squares says."""
    form, weight, x = MatrixFormat("int8", 32), normal(10, 64), correlated(64).double()
    scales = torch.tensor([[0.5, 4.0 / 127]]).bfloat16().float().expand(10, 2).contiguous()
    options = GptqOptions(damping=0.0, act_order=False)
    matrix = gptq(weight * 0.7, hessian_of(x), form, options, scales)
    error = (matrix.dequantize() - weight * 0.7).double()
    coarse = x[:, :32] @ error[:, :32].T
    rest = torch.linalg.lstsq(x[:, 32:], -coarse).solution
    bound = float((coarse + x[:, 32:] @ rest).square().sum())
    ours = float((x @ error.T).square().sum())
    assert bound <= ours <= 1.1 * bound
    assert float(coarse.square().sum()) > 3.0 * bound, "there was nothing to make up for"


def test_each_part_serves() -> None:
    form = MatrixFormat("int3", 32)
    weight, hessian = normal(64, 96), hessian_of(correlated(96))

    def loss(options: GptqOptions, hessian_seen: Tensor = hessian) -> float:
        matrix = gptq(weight, hessian_seen, form, options)
        return output_error(matrix.dequantize() - weight, hessian)

    full = loss(GptqOptions())
    assert full < loss(GptqOptions(act_order=False))
    assert full < 0.5 * loss(GptqOptions(propagate=False)), "no error propagation must lose"
    shuffled = correlated(96)
    for k in range(96):  # each input's own numbers, but no longer at the same tokens
        shuffled[:, k] = shuffled[
            torch.randperm(400, generator=torch.Generator().manual_seed(k)), k
        ]
    assert full < 0.7 * loss(GptqOptions(), hessian_of(shuffled)), "shuffled text must lose"


def test_a_matrix_taken_along_the_wrong_axis_loses() -> None:
    """A Conv1D stores (K, N); where K = N nothing but the result tells."""
    form, weight, hessian = MatrixFormat("int4", 32), normal(96, 96), hessian_of(correlated(96))
    right = gptq(weight, hessian, form).dequantize()
    wrong = gptq(weight.T.contiguous(), hessian, form).dequantize().T
    nearest = round_to_nearest(weight, form).dequantize()
    losses = [output_error(values - weight, hessian) for values in (right, nearest, wrong)]
    assert losses[0] < 0.5 * losses[1]
    assert losses[2] > losses[1]


def test_damping_saves_a_singular_hessian_and_dead_columns_change_nothing_else() -> None:
    x = correlated(80, rows=20)  # fewer rows than inputs
    x[:, 11] = 0.0
    weight, form = normal(16, 80), MatrixFormat("int4", 32)
    for damping in (0.01, 0.0):
        options = GptqOptions(damping=damping, clip=False)
        matrix = gptq(weight, hessian_of(x), form, options)
        assert bool(torch.isfinite(matrix.dequantize()).all())
        steps = inverse(matrix.scales[:, :1])[:, 0]
        nearest = torch.round(weight[:, 11] * steps).clamp(*INTEGER_RANGES["int4"])
        assert torch.equal(matrix.integers[:, 11].float(), nearest)


def test_blocks_of_columns_are_a_matter_of_speed_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    weight, hessian, form = normal(16, 150), hessian_of(correlated(150)), MatrixFormat("int4", 64)
    whole = gptq(weight, hessian, form, PLAIN).integers
    monkeypatch.setattr("gpt2fast.compress.quantize.gptq._BLOCK", 7)
    other = gptq(weight, hessian, form, PLAIN).integers
    assert float((whole != other).float().mean()) < 0.02  # ties that rounding of sums decides
