"""Mixed precision against all assignments there are."""

from __future__ import annotations

import itertools
import random

import pytest

from gpt2fast.compress.quantize import assign
from gpt2fast.compress.quantize.assign import assign_formats, matrix_bytes
from gpt2fast.config import ModelConfig
from gpt2fast.errors import OptionError
from gpt2fast.quantization import EMBEDDING, MatrixFormat, Quantization
from gpt2fast.quantization.panel_layout import matrix_layouts

FORMS = [MatrixFormat("int8", 64), MatrixFormat("int4", 64), MatrixFormat("int3", 64)]
CONFIG = ModelConfig(vocab_size=300, n_positions=16, n_embd=64, n_layer=2, n_head=4, n_inner=256)


def problem(seed: int, count: int) -> tuple[dict, dict]:  # type: ignore[type-arg]
    rng = random.Random(seed)
    sizes, losses = {}, {}
    for index in range(count):
        weight = rng.choice([1, 3, 4]) * 1000 + rng.randrange(50)
        sizes[f"m{index}"] = {form: weight * (9 - 2 * i) for i, form in enumerate(FORMS)}
        costs = sorted(rng.random() ** 3 for _ in FORMS)
        losses[f"m{index}"] = dict(zip(FORMS, costs, strict=True))
    return losses, sizes


@pytest.mark.parametrize("seed", range(6))
def test_the_best_of_all_assignments(seed: int) -> None:
    losses, sizes = problem(seed, 7)
    everything = [
        (
            sum(sizes[n][f] for n, f in zip(losses, forms, strict=True)),
            sum(losses[n][f] for n, f in zip(losses, forms, strict=True)),
        )
        for forms in itertools.product(FORMS, repeat=7)
    ]
    least, most = min(everything)[0], max(everything)[0]
    for share in (0.0, 0.2, 0.5, 0.9, 1.0):
        budget = int(least + share * (most - least))
        found = assign_formats(losses, sizes, budget)
        assert sum(sizes[name][form] for name, form in found.items()) <= budget
        loss = sum(losses[name][form] for name, form in found.items())
        assert loss == pytest.approx(min(loss for size, loss in everything if size <= budget))


def test_dropping_sums_keeps_it_feasible_and_close(monkeypatch: pytest.MonkeyPatch) -> None:
    losses, sizes = problem(9, 40)
    budget = sum(row[FORMS[1]] for row in sizes.values())
    exact = assign_formats(losses, sizes, budget)
    monkeypatch.setattr(assign, "_MOST_STATES", 1000)
    found = assign_formats(losses, sizes, budget)
    total, best = (sum(losses[n][f] for n, f in forms.items()) for forms in (found, exact))
    assert sum(sizes[name][form] for name, form in found.items()) <= budget
    assert best <= total <= 1.05 * best


def test_an_impossible_budget_is_named() -> None:
    losses, sizes = problem(0, 3)
    with pytest.raises(OptionError, match="too few for the matrices"):
        assign_formats(losses, sizes, 1000)


@pytest.mark.parametrize("tied", [True, False])
def test_bytes_are_those_of_the_runner(tied: bool) -> None:
    config = ModelConfig(**{**vars(CONFIG), "tie_word_embeddings": tied})
    sizes = matrix_bytes(config, [*FORMS, MatrixFormat("float32")])
    layouts = matrix_layouts(config, "float32", Quantization(FORMS[1], FORMS[0]))
    for name, layout in layouts.items():
        assert sizes[name][layout.format] == layout.num_bytes
    assert sizes["h.0.mlp.c_fc.weight"][MatrixFormat("float32")] == 4 * 64 * 256
    step = matrix_bytes(config, FORMS, per_step=True)
    assert (step[EMBEDDING][FORMS[0]] > 0) == tied
