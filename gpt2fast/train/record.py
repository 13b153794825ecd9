"""``training.json``: how a model came about, exactly enough to make it again."""

from __future__ import annotations

import datetime
import platform
from importlib.metadata import version
from typing import Any

from gpt2fast.train.evaluation import HeldOut
from gpt2fast.train.prepare import PreparedRun
from gpt2fast.train.run_options import TextOptions

_PACKAGES = ("torch", "accelerate", "tokenizers", "numpy", "safetensors")


def training_record(
    options: TextOptions,
    run: PreparedRun,
    steps: int,
    tokens_seen: int,
    num_parameters: int,
    held_out: HeldOut | None,
) -> dict[str, Any]:
    """Command, versions, date, corpus and held-out quality, as JSON holds them."""
    lasting = {k: v for k, v in options.as_dict().items() if k not in ("resume", "stop_at")}
    return {
        "command": options.command(),
        "options": lasting,
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d"),
        "seed": options.seed,
        "steps": steps,
        "planned_steps": options.steps,
        "tokens_seen": tokens_seen,
        "parameters": num_parameters,
        "corpus": {
            **run.corpus,
            "train_tokens": len(run.train_tokens),
            "held_out_tokens": len(run.held_out_tokens),
        },
        "held_out": held_out.as_dict() if held_out else None,
        "versions": {
            "python": platform.python_version(),
            **{package: version(package) for package in _PACKAGES},
        },
    }
