"""The recipes that a budget is searched with."""

from __future__ import annotations

from itertools import pairwise

import pytest

from gpt2fast.compress.budget import Budget, Measured
from gpt2fast.compress.recipe.passes import OPTIONS
from gpt2fast.compress.recipe.recipe import parse_recipe
from gpt2fast.compress.search.candidates import (
    BLOCKS,
    HEADS,
    candidate_sets,
    pruned,
    quantized,
    refined,
)
from gpt2fast.compress.search.search import TrialResult
from gpt2fast.config import ModelConfig

SMALL = ModelConfig(50257, 1024, 768, 12, 12, 3072)
BUDGET = Budget(max_loss=1.0)


def test_more_of_everything_is_smaller() -> None:
    for candidates in (quantized(SMALL), pruned(SMALL)):
        for a in candidates:
            for b in candidates:
                if a != b and b.at_least(a):
                    assert b.step_bytes < a.step_bytes, (a.recipe.label, b.recipe.label)
    assert len({c.recipe.key for c in quantized(SMALL)}) == len(BLOCKS) * len(HEADS)


def test_pruning_is_for_budgets_of_size_and_speed_alone() -> None:
    assert len(list(candidate_sets(SMALL, None, BUDGET))) == 1
    assert len(list(candidate_sets(SMALL, None, Budget(max_loss=1.0, min_speedup=4.0)))) == 2
    names = {step.name for c in pruned(SMALL) for step in c.recipe.steps}
    assert names == {"prune-layers", "prune-neurons", "recover", "quantize"}


def test_a_recipe_is_the_only_candidate() -> None:
    recipe = parse_recipe({"passes": ["quantize"]}, "test", OPTIONS)
    ((only,),) = candidate_sets(SMALL, recipe, Budget())
    assert only.recipe == recipe


@pytest.mark.parametrize("layers", [1, 2])
def test_shallow_models_keep_a_layer(layers: int) -> None:
    config = ModelConfig(100, 32, 64, layers, 2, 256)
    for candidate in pruned(config):
        for step in candidate.recipe.steps:
            assert step.name != "prune-layers" or step.options.remove < layers


def test_mixed_precision_lies_between_what_keeps_the_budget_and_what_does_not() -> None:
    found = sorted(quantized(SMALL), key=lambda c: c.step_bytes)
    bad, good = found[4], found[9]
    tried = [
        TrialResult(bad, Measured(2.0, 1.9, 2.1, 5.0, 1)),
        TrialResult(good, Measured(0.5, 0.4, 0.6, 4.0, 1)),
    ]
    finer = refined(SMALL, tried, BUDGET, 0.8)
    sizes = [good.step_bytes, *(c.step_bytes for c in finer), bad.step_bytes]
    assert all(a > b for a, b in pairwise(sizes))
    assert not refined(SMALL, tried[:1], BUDGET, 0.8), "nothing keeps the budget"
    assert not refined(SMALL, tried[1:], BUDGET, 0.8), "nothing smaller was tried"
