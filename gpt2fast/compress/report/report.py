"""``report.json``: what was promised, what was measured, and how to measure it again."""

from __future__ import annotations

import datetime
import platform
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from gpt2fast.bench.limits import machine
from gpt2fast.checkpoint import open_checkpoint
from gpt2fast.checkpoint.digest import weights_digest
from gpt2fast.compress.budget import Budget
from gpt2fast.compress.calibration.splits import Texts
from gpt2fast.compress.recipe.recipe import Recipe
from gpt2fast.compress.report.coverage import coverage, summary
from gpt2fast.compress.search.verify import Verification
from gpt2fast.quantization.panel_layout import bytes_per_step, matrix_layouts

_PACKAGES = ("gpt2fast", "torch", "numpy", "tokenizers", "safetensors")


@dataclass(frozen=True)
class Outcome:
    """All that a compression found out."""

    model: str  # as the user named it
    original: Path
    artifact: Path
    recipe: Recipe
    passes: list[dict[str, Any]]
    budget: Budget
    texts: Texts
    verification: Verification
    bias: dict[str, Any]
    tried: list[dict[str, Any]]  # entries of the log
    verified: int  # how many artifacts were verified until one kept the budget
    command: str
    request: dict[str, Any]
    seed: int
    num_threads: int | None
    revision: str | None


def make_report(outcome: Outcome) -> dict[str, Any]:
    """The content of ``report.json``."""
    tensors = coverage(outcome.artifact)
    return {
        "command": outcome.command,
        "request": outcome.request,
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d"),
        "seed": outcome.seed,
        "num_threads": outcome.num_threads,
        "original": {
            "name": outcome.model,
            "revision": outcome.revision,
            **describe(outcome.original),
        },
        "artifact": describe(outcome.artifact),
        "budget": {
            **outcome.budget.to_json(),
            "kept": None if outcome.budget == Budget() else True,  # where nothing was asked
            "verified": outcome.verified,
        },
        "recipe": outcome.recipe.to_json(),
        "passes": outcome.passes,
        "text": outcome.texts.facts(),
        "quality": outcome.verification.quality,
        "speed": {
            "what": "decoding at batch 1, tokens a second, in turns with the original in float32",
            **outcome.verification.speed.to_json(),
        },
        "bias": outcome.bias,
        "coverage": summary(tensors),
        "search": outcome.tried,
        "machine": machine(),
        "versions": _versions(),
    }


def describe(directory: Path) -> dict[str, Any]:
    """Size, shapes and identity of a checkpoint."""
    with open_checkpoint(directory) as checkpoint:
        config = checkpoint.config
        layouts = matrix_layouts(config, "float32", checkpoint.quantization)
        shapes = [config.layer_shape(layer) for layer in range(config.n_layer)]
        return {
            "weights_sha256": weights_digest(checkpoint),
            "parameters": checkpoint.num_parameters,
            "bytes": checkpoint.num_bytes,
            "bytes_per_step": bytes_per_step(layouts, config),
            "layers": [{"n_head": s.n_head, "n_inner": s.n_inner} for s in shapes],
        }


def _versions() -> dict[str, str]:
    return {"python": platform.python_version(), **{p: _version(p) for p in _PACKAGES}}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # run from a source tree that was never installed
        return "not installed"
