"""The recipes that a budget is searched with, from mild to harsh.

Quantization comes first: it costs least for what it brings. Only where size or speed ask for more
are layers and neurons removed as well, each followed by a recovery.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

from gpt2fast.compress.budget import Budget
from gpt2fast.compress.quantize.mixed import num_weights
from gpt2fast.compress.recipe.passes import OPTIONS
from gpt2fast.compress.recipe.recipe import Recipe, parse_recipe
from gpt2fast.compress.search.search import Candidate, TrialResult, best_first
from gpt2fast.config import ModelConfig
from gpt2fast.quantization import MatrixFormat, Quantization
from gpt2fast.quantization.panel_layout import (
    bytes_by_format,
    bytes_per_step,
    matrix_layouts,
    vector_bytes,
)

# Each more than the one before in loss, and in what it saves. GPTQ brings nothing to blocks in 8
# bits, but to the head it does.
BLOCKS = ("int8-g64", "int4-g32", "int4-g64", "int4-g128", "int3-g32", "int3-g64", "int3-g128")
HEADS = ("int8-g64", "int4-g32", "int4-g64")
# Of a model that is pruned too: fewer, since each costs a recovery.
PRUNED_BLOCKS = ("int8-g64", "int4-g64", "int3-g64")
PRUNED_HEADS = ("int8-g64", "int4-g64")
LAYER_SHARES = (0.0, 0.25, 0.5)
NEURON_SHARES = (1.0, 0.75, 0.5)
RECOVERY_STEPS = 200
REFINED = (0.33, 0.67)  # of the way from what keeps the budget to what does not


def candidate_sets(
    config: ModelConfig, recipe: Recipe | None, budget: Budget
) -> Iterator[list[Candidate]]:
    """Sets of candidates, each to be tried only if none of the set before keeps the budget."""
    if recipe is not None:
        yield [Candidate(recipe, (0,), 0)]
        return
    formats = quantized(config)
    most = budget.max_bytes
    if most is None or min(candidate.num_bytes for candidate in formats) <= most:
        yield formats
    if budget.min_speedup is not None or budget.max_bytes is not None:
        yield pruned(config)


def quantized(config: ModelConfig) -> list[Candidate]:
    """Every format of the blocks with every format of embedding and head."""
    return [
        _candidate(config, [_quantize(blocks, head)], blocks, head, (b, h))
        for (b, blocks), (h, head) in product(enumerate(BLOCKS), enumerate(HEADS))
    ]


def refined(
    config: ModelConfig, tried: Sequence[TrialResult], budget: Budget, share: float
) -> list[Candidate]:
    """Mixed precision between the smallest candidate that keeps the budget and the largest of the
    smaller ones, which lose too much."""
    kept = best_first(tried, budget, share)
    if not kept or budget.max_loss is None or len(kept[0].candidate.recipe.steps) > 1:
        return []  # nothing to go on from, or a model that is pruned and has other shapes
    best = kept[0].candidate.step_bytes
    below = [t.candidate.step_bytes for t in tried if t.candidate.step_bytes < best]
    if not below:
        return []
    weights = num_weights(config, per_step=True)
    found = []
    for level, part in enumerate(REFINED):
        size = best - part * (best - max(below))
        bits = round(8 * (size - vector_bytes(config)) / weights, 3)
        passes = {"passes": [{"quantize-mixed": {"bits": bits, "per_step": True}}]}
        recipe = parse_recipe(passes, "the search", OPTIONS)
        found.append(Candidate(recipe, (level,), round(size)))
    return found


def pruned(config: ModelConfig) -> list[Candidate]:
    """Layers and neurons removed, recovered, then quantized."""
    found = []
    levels = product(
        enumerate(LAYER_SHARES),
        enumerate(NEURON_SHARES),
        enumerate(PRUNED_BLOCKS),
        enumerate(PRUNED_HEADS),
    )
    for (n, layers), (m, neurons), (b, blocks), (h, head) in levels:
        removed = round(layers * config.n_layer)
        if (removed == 0) != (layers == 0.0) or removed >= config.n_layer or n == m == 0:
            continue
        passes: list[dict[str, Any]] = []
        if removed:
            passes.append({"prune-layers": {"remove": removed}})
        if neurons < 1.0:
            passes.append({"prune-neurons": {"keep": neurons}})
        passes += [{"recover": {"steps": RECOVERY_STEPS}}, _quantize(blocks, head)]
        smaller = replace(
            config,
            n_layer=config.n_layer - removed,
            n_inner=max(1, round(neurons * config.n_inner)),
            layers=(),
        )
        found.append(_candidate(smaller, passes, blocks, head, (n, m, b, h)))
    return found


def _quantize(blocks: str, head: str) -> dict[str, Any]:
    own = {"method": "rtn", "head_method": "gptq"} if blocks.startswith("int8") else {}
    return {"quantize": {"blocks": blocks, "head": head, **own}}


def _candidate(
    config: ModelConfig,
    passes: list[dict[str, Any]],
    blocks: str,
    head: str,
    levels: tuple[int, ...],
) -> Candidate:
    scheme = Quantization(_format(blocks), _format(head))
    layouts = matrix_layouts(config, "float32", scheme)
    recipe = parse_recipe({"passes": passes}, "the search", OPTIONS)
    stored = sum(bytes_by_format(layouts, config).values())
    return Candidate(recipe, levels, bytes_per_step(layouts, config), stored)


def _format(label: str) -> MatrixFormat:
    name, group = label.split("-g")
    return MatrixFormat(name, int(group))
