"""Whether a pruned and recovered model beats one of its shape that is trained from scratch.

    python benchmarks/quality/recover.py
    python benchmarks/quality/recover.py --model DIR --calibration FILES... --held-out FILE

For each seed: heads, neurons and a layer are removed from the model, with least squares for what
remains, and it recovers with the model before as its teacher; a model of the same shape and random
weights is trained on the next tokens of the same windows in the same order, for the same steps.
Perplexity of text that neither saw, and the paired 95 % interval of the difference over windows.
Rows are appended to benchmarks/results/quality-recover.jsonl. Exits with 1 unless the recovered
model is better than the one from scratch, and than itself before, in the median over the seeds.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import sys
import tempfile
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import torch
from common import Study, parser

from gpt2fast.compress.calibration.calibration import Calibration
from gpt2fast.compress.distill.options import RecoverOptions
from gpt2fast.compress.distill.recover import recover, recover_model
from gpt2fast.compress.prune import (
    HeadOptions,
    LayerOptions,
    NeuronOptions,
    prune_heads,
    prune_layers,
    prune_neurons,
)
from gpt2fast.compress.state.model import Model, frozen
from gpt2fast.errors import GPT2FastError
from gpt2fast.evaluate import paired_comparison
from gpt2fast.model.gpt2 import GPT2

PRUNED_ON = 32  # windows
RECOVER: dict[str, Any] = {"lr": 3e-4}
SCRATCH: dict[str, Any] = {
    "lr": 1.5e-3,
    "divergence_weight": 0.0,
    "ce_weight": 1.0,
}  # random weights need more


def pruned(study: Study, text: Calibration) -> Model:
    """A layer, then half of the neurons, then a quarter of the heads removed."""
    model = copy.deepcopy(study.original)
    little = Calibration(text.windows[:PRUNED_ON], text.origin)
    prune_layers(model, little, LayerOptions(remove=1))
    prune_neurons(model, little, NeuronOptions(keep=0.5))
    prune_heads(model, little, HeadOptions(keep=0.75))
    return model


def from_scratch(model: Model, text: Calibration, options: RecoverOptions) -> Model:
    """A model of the shape of ``model``, trained on ``text`` alone."""
    torch.manual_seed(options.seed)
    network = frozen(GPT2(model.config))
    with tempfile.TemporaryDirectory() as work:
        recover(network, network, text.windows, Path(work), options)
    return Model(network, model.source)


def measure(study: Study, seed: int, steps: int) -> list[dict[str, Any]]:
    """The rows of one seed: pruned, recovered, from scratch."""
    text, begin = study.calibration(seed), perf_counter()
    model = pruned(study, text)
    usual = RecoverOptions(steps=steps, batch_size=4, warmup=steps // 10, seed=seed)
    facts = {"seed": seed, "parameters": model.config.num_parameters, "steps": steps}
    facts["tokens"] = steps * usual.batch_size * (study.length - 1)
    rows = [study.row(model, {"label": "pruned", **facts})]
    scratch = from_scratch(model, text, dataclasses.replace(usual, **SCRATCH))
    with tempfile.TemporaryDirectory() as work:
        options = dataclasses.replace(usual, **RECOVER)
        recover_model(model, study.original.network, text.windows, Path(work), options)
    rows.append(study.row(model, {"label": "recovered", **facts}))
    above = paired_comparison(study.nats(model), study.nats(scratch), study.groups).as_dict()
    rows.append(study.row(scratch, {"label": "scratch", **facts, "above_recovered": above}))
    for row in rows:
        print(f"seed {seed}, {row['label']}: perplexity {row['perplexity']:.2f}", flush=True)
    print(f"seed {seed}: {perf_counter() - begin:.0f} s", flush=True)
    return rows


def check(rows: list[dict[str, Any]]) -> bool:
    """Whether recovery is worth its steps."""
    found = {
        label: median(row["perplexity"] for row in rows if row["label"] == label)
        for label in ("pruned", "recovered", "scratch")
    }
    holds = found["recovered"] < min(found["pruned"], found["scratch"])
    dense = rows[0]["dense_perplexity"]
    print("kept  " if holds else "BROKEN", f"dense {dense:.2f},", found)
    return holds and all(math.isfinite(value) for value in found.values())


def main(argv: list[str]) -> int:
    """Measure, append the rows, and say what is kept."""
    options = parser(__doc__, "quality-recover.jsonl")
    options.add_argument("--steps", type=int, default=150, help="of each training, 4 windows each")
    options.set_defaults(windows=600)
    args = options.parse_args(argv)
    study = Study(args)
    rows = [row for seed in range(args.seeds) for row in measure(study, seed, args.steps)]
    return 0 if check(rows) else 1


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except GPT2FastError as error:
        sys.exit(f"error: {error}")
