"""Recipes are carried out once, whatever interrupts them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from gpt2fast.compress.calibration.calibration import Calibration
from gpt2fast.compress.recipe.pipeline import Context, Pass, Pipeline
from gpt2fast.compress.recipe.recipe import parse_recipe
from gpt2fast.compress.state.journal import TensorJournal
from gpt2fast.compress.state.model import Model, QuantizedMatrix
from gpt2fast.compress.state.snapshot import record_part, restore_parts
from gpt2fast.errors import CheckpointError, GPT2FastError
from gpt2fast.kernels import reference
from gpt2fast.quantization import MatrixFormat


@dataclass(frozen=True)
class Factor:
    by: float = 2.0


class Bench:
    """Passes that count how often they run; one is interrupted at the block it is told."""

    def __init__(self, make: Callable[..., Model], work: Path, calibration: Calibration) -> None:
        self.make, self.ran, self.stop_at = make, [], -1  # type: ignore[var-annotated]
        self.passes = {
            "scale": Pass(Factor, self.scale),
            "round": Pass(Factor, self.round_blocks),
            "spoil": Pass(Factor, self.spoil),
        }
        self.context = Context(calibration, work / "original", work, lambda text: None)

    def pipeline(self) -> Pipeline:
        return Pipeline(self.passes, lambda: self.make(n_layer=3), self.context)

    def scale(self, model: Model, options: Factor, context: Context) -> None:
        self.ran.append(f"scale {options.by:g}")
        model.network.ln_f.weight.mul_(options.by)
        model.history.append({"by": options.by})

    def round_blocks(self, model: Model, options: Factor, context: Context) -> None:
        journal = TensorJournal(context.work)
        done = restore_parts(model, journal)
        for layer in range(model.config.n_layer):
            if f"h.{layer}." in done:
                continue
            if layer == self.stop_at:
                raise KeyboardInterrupt
            self.ran.append(f"round {layer}")
            name = f"h.{layer}.mlp.c_fc.weight"
            integers, scales = reference.quantize_matrix(model.weight(name), "int4", 32)
            form = MatrixFormat("int4", 32)
            model.set_quantized(name, QuantizedMatrix(integers.to(torch.int8), scales, form))
            record_part(model, journal, f"h.{layer}.")
        model.history.append({"blocks": model.config.n_layer})

    def spoil(self, model: Model, options: Factor, context: Context) -> None:
        model.network.ln_f.weight.mul_(float("nan"))


@pytest.fixture
def bench(
    random_model: Callable[..., Model],
    random_calibration: Callable[..., Calibration],
    tmp_path: Path,
) -> Bench:
    return Bench(random_model, tmp_path / "work", random_calibration(101))


def recipe(bench: Bench, *names: Any) -> Any:
    options = {name: pass_.options for name, pass_ in bench.passes.items()}
    return parse_recipe({"passes": list(names)}, "test", options)


def same(a: Model, b: Model) -> bool:
    states = a.network.state_dict(), b.network.state_dict()
    return all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_passes_run_once_and_prefixes_are_shared(bench: Bench) -> None:
    first = bench.pipeline().run(recipe(bench, "scale", "round"))
    assert bench.ran == ["scale 2", "round 0", "round 1", "round 2"]
    again = bench.pipeline().run(recipe(bench, "scale", "round"))
    assert len(bench.ran) == 4
    assert same(first, again)
    assert [entry["pass"] for entry in again.history] == ["scale", "round"]
    bench.pipeline().run(recipe(bench, "scale", {"scale": {"by": 3.0}}))
    assert bench.ran[4:] == ["scale 3"], "the first pass is that of the recipe before"


@pytest.mark.parametrize("stop_at", [0, 1, 2])
def test_an_interruption_loses_one_step_at_most(bench: Bench, stop_at: int) -> None:
    bench.stop_at = stop_at
    with pytest.raises(KeyboardInterrupt):
        bench.pipeline().run(recipe(bench, "scale", "round"))
    bench.stop_at, before = -1, len(bench.ran)
    resumed = bench.pipeline().run(recipe(bench, "scale", "round"))
    assert bench.ran[before:] == [f"round {layer}" for layer in range(stop_at, 3)]
    other = Bench(bench.make, bench.context.work.parent / "other", bench.context.calibration)
    whole = other.pipeline().run(recipe(other, "scale", "round"))
    assert same(resumed, whole)
    assert resumed.matrices.keys() == whole.matrices.keys()
    assert len(whole.matrices) == 3
    for name, matrix in whole.matrices.items():
        assert torch.equal(resumed.matrices[name].integers, matrix.integers)


def test_values_that_are_not_numbers_stop_the_recipe(bench: Bench) -> None:
    with pytest.raises(GPT2FastError, match="the pass spoil left values that are not numbers"):
        bench.pipeline().run(recipe(bench, "spoil"))


def test_a_damaged_step_is_named(bench: Bench) -> None:
    bench.stop_at = 2
    with pytest.raises(KeyboardInterrupt):
        bench.pipeline().run(recipe(bench, "round"))
    (step,) = (bench.context.work / "passes").glob("*/h.1.")
    (step / "facts.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"h\.1\.: is damaged"):
        bench.pipeline().run(recipe(bench, "round"))
