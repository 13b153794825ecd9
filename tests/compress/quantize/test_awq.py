"""AWQ's factors change no function and are found by the outputs' error."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from gpt2fast.compress.calibration.calibration import Calibration
from gpt2fast.compress.calibration.capture import HiddenStates
from gpt2fast.compress.quantize import QuantizeOptions, awq, quantize
from gpt2fast.compress.quantize.awq import best_factors, channel_factors
from gpt2fast.compress.quantize.clip import round_clipped
from gpt2fast.compress.quantize.inputs import InputStatistics, collect, damped, output_error
from gpt2fast.compress.quantize.rtn import round_to_nearest
from gpt2fast.compress.quantize.smooth import NORMS, VALUES, scale_channels
from gpt2fast.compress.state.model import Model
from gpt2fast.quantization import MatrixFormat

INT3 = MatrixFormat("int3", 32)


def seen_inputs(inputs: int) -> InputStatistics:
    generator = torch.Generator().manual_seed(3)
    statistics = InputStatistics(inputs)
    sizes = torch.ones(inputs)
    sizes[:4] = 30.0
    statistics.add(torch.randn(300, inputs, generator=generator) * sizes)
    return statistics


def test_at_0_it_is_rounding_without_factors(
    monkeypatch: pytest.MonkeyPatch,
    random_model: Callable[..., Model],
    random_calibration: Callable[..., Calibration],
) -> None:
    """To nearest, and in the whole pass on the clipped scales that it rounds with."""
    weight = torch.randn(20, 64, generator=torch.Generator().manual_seed(0))
    alpha, factors = best_factors(weight, seen_inputs(64), INT3, 0.01, alphas=(0.0,))
    assert alpha == 0.0
    assert torch.equal(factors, torch.ones(64))
    scaled = round_to_nearest(weight * factors, INT3)
    assert torch.equal(scaled.integers, round_to_nearest(weight, INT3).integers)
    monkeypatch.setattr(awq, "ALPHAS", (0.0,))
    found = {}
    for method in ("awq", "clip"):
        found[method] = random_model()
        quantize(found[method], random_calibration(101), QuantizeOptions(method, INT3))
    for name, matrix in found["awq"].matrices.items():
        assert torch.equal(matrix.integers, found["clip"].matrices[name].integers)


def test_factors_are_never_worse_than_none() -> None:
    """By the error of the outputs, under the rounding that follows, whatever the inputs."""
    for seed in range(6):
        generator = torch.Generator().manual_seed(seed)
        weight = torch.randn(20, 64, generator=generator)
        statistics = InputStatistics(64)
        mix = torch.randn(64, 64, generator=generator)
        statistics.add(torch.randn(300, 64, generator=generator) @ mix)
        hessian = statistics.hessian

        def error(factors: torch.Tensor, w: torch.Tensor = weight, h: torch.Tensor = hessian):  # type: ignore[no-untyped-def]
            seen = damped(h.float() / torch.outer(factors, factors), 0.01)
            return output_error(
                round_clipped(w * factors, INT3, seen).dequantize() / factors - w, h
            )

        _, factors = best_factors(weight, statistics, INT3, 0.01)
        assert error(factors) <= error(torch.ones(64)) * (1 + 1e-5)


def test_large_inputs_are_rounded_more_finely() -> None:
    weight = torch.randn(20, 64, generator=torch.Generator().manual_seed(0))
    statistics = seen_inputs(64)
    alpha, factors = best_factors(weight, statistics, INT3, 0.01)
    stored = round_to_nearest(weight * factors, INT3).dequantize() / factors
    nearest = round_to_nearest(weight, INT3).dequantize()
    ours, theirs = (
        output_error(values - weight, statistics.hessian) for values in (stored, nearest)
    )
    assert alpha > 0
    assert float(factors[:4].min()) > float(factors[4:].max())
    assert ours < 0.6 * theirs


@pytest.mark.parametrize("part", [*NORMS, VALUES])
def test_the_function_is_kept(
    part: str,
    random_model: Callable[..., Model],
    random_calibration: Callable[..., Calibration],
) -> None:
    model, calibration = random_model(), random_calibration(101)
    tokens = torch.from_numpy(calibration.windows)
    before = model.network(tokens)
    states = HiddenStates(model.network, calibration)
    magnitude = collect(states, (part,))[part].magnitude
    old = model.weight(f"h.0.{part}.weight").clone()
    scale_channels(states.block, part, channel_factors(magnitude, 0.7))
    assert not torch.allclose(old, model.weight(f"h.0.{part}.weight"))
    torch.testing.assert_close(model.network(tokens), before, rtol=1e-5, atol=1e-5)
