"""What each way of pruning costs on text that neither training nor calibration saw.

    python benchmarks/quality/prune.py
    python benchmarks/quality/prune.py --model DIR --calibration FILES... --held-out FILE

Perplexity in contexts of the model's own length beside that of the dense model: percent more, with
a paired 95 % interval over windows. Rows are appended to benchmarks/results/quality-prune.jsonl.
Exits with 1 where a promise is broken (medians over the seeds): SparseGPT < Wanda < magnitude <
random at 50 % of the weights, SparseGPT on shuffled text worse than on text, and structured pruning
with reconstruction better than without.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
from common import Study, parser, told

from gpt2fast.compress.calibration.calibration import Calibration
from gpt2fast.compress.prune import (
    HeadOptions,
    LayerOptions,
    NeuronOptions,
    WeightOptions,
    prune_heads,
    prune_layers,
    prune_neurons,
    prune_weights,
)
from gpt2fast.compress.state.model import Model
from gpt2fast.errors import GPT2FastError


@dataclass(frozen=True)
class Case:
    """A row for each seed. ``group`` and ``label`` name it in the results."""

    group: str
    label: str
    prune: Callable[[Model, Calibration, int], None]
    seeded: bool = True  # whether another calibration text, or seed, gives another model


def weight_cases(pattern: str) -> list[Case]:
    """Single weights: half of them, anywhere or two of four."""

    def case(label: str, method: str, **options: Any) -> Case:
        def prune(model: Model, text: Calibration, seed: int) -> None:
            given = WeightOptions(method, pattern=pattern, seed=seed, **options)
            prune_weights(model, shuffled(text) if "shuffled" in label else text, given)

        return Case(f"weights {pattern}", label, prune, method != "magnitude")

    return [
        case("sparsegpt", "sparsegpt"),
        case("sparsegpt, shuffled text", "sparsegpt"),
        case("wanda", "wanda"),
        case("wanda, norm_power 0.5", "wanda", norm_power=0.5),
        case("magnitude", "magnitude"),
        case("random", "random"),
    ]


def shuffled(text: Calibration) -> Calibration:
    """The same tokens without their order: the control that must be worse."""
    flat = np.random.default_rng(0).permutation(text.windows.ravel())
    return Calibration(flat.reshape(text.windows.shape), f"{text.origin}, shuffled")


def unit_cases(keep: float, importance: str) -> list[Case]:
    """Heads and neurons, with reconstruction and without."""
    kinds: list[tuple[str, Any, Any]] = [
        ("heads", prune_heads, lambda **given: HeadOptions(**given)),
        ("neurons", prune_neurons, lambda **given: NeuronOptions(**given)),
        ("uniform neurons", prune_neurons, lambda **given: NeuronOptions(uniform=True, **given)),
    ]
    found = []
    for kind, function, options in kinds:
        for fit in (True, False):
            given = options(keep=keep, importance=importance, reconstruct=fit)

            def prune(
                model: Model, text: Calibration, _seed: int, run: Any = function, o: Any = given
            ) -> None:
                run(model, text, o)

            label = "reconstructed" if fit else "plain"
            found.append(Case(f"{kind}, {keep:.0%}, {importance}", label, prune))
    return found


def layer_cases(count: int) -> list[Case]:
    """A quarter and half of the layers."""
    found = []
    for remove in sorted({max(1, count // 4), count // 2}):
        for method in ("loss", "influence"):
            given = LayerOptions(remove, method)

            def prune(model: Model, text: Calibration, _seed: int, o: Any = given) -> None:
                prune_layers(model, text, o)

            found.append(Case(f"layers, {remove} of {count} removed", method, prune))
    return found


def check(rows: list[dict[str, Any]]) -> list[str]:
    """What was promised and is not kept."""
    medians: dict[str, dict[str, float]] = {}
    for group, label in {(row["group"], row["label"]) for row in rows}:
        same = [row["percent"] for row in rows if (row["group"], row["label"]) == (group, label)]
        medians.setdefault(group, {})[label] = median(same)
    orders = [
        ("sparsegpt", "wanda", "magnitude", "random"),
        ("sparsegpt", "sparsegpt, shuffled text"),
        ("reconstructed", "plain"),
    ]
    failed = []
    for group, losses in sorted(medians.items()):
        for order in orders:
            if all(label in losses for label in order):
                holds = all(losses[a] < losses[b] for a, b in pairwise(order))
                text = f"{group}: " + " < ".join(
                    f"{label} {losses[label]:+.2f} %" for label in order
                )
                print("kept  " if holds else "BROKEN", text)
                failed += [] if holds else [text]
    return failed


def main(argv: list[str]) -> int:
    """Measure, append the rows, and say what is kept."""
    options = parser(__doc__, "quality-prune.jsonl")
    options.add_argument(
        "--only",
        nargs="+",
        default=["weights", "units", "layers"],
        choices=["weights", "units", "layers"],
    )
    options.add_argument("--patterns", nargs="+", default=["unstructured", "2:4"])
    options.add_argument("--importances", nargs="+", default=["reconstruction"])
    options.add_argument("--keep", nargs="+", type=float, default=[0.75, 0.5])
    args = options.parse_args(argv)
    study = Study(args)
    patterns = args.patterns if "weights" in args.only else []
    cases = [case for pattern in patterns for case in weight_cases(pattern)]
    if "units" in args.only:
        for importance in args.importances:
            cases += [case for keep in args.keep for case in unit_cases(keep, importance)]
    cases += layer_cases(study.original.config.n_layer) if "layers" in args.only else []
    rows = [
        measure(study, case, seed)
        for case in cases
        for seed in range(args.seeds if case.seeded else 1)
    ]
    return 1 if check(rows) else 0


def measure(study: Study, case: Case, seed: int) -> dict[str, Any]:
    """One row."""
    model, begin = copy.deepcopy(study.original), perf_counter()
    text = study.calibration(seed)
    case.prune(model, text, seed)
    seconds = perf_counter() - begin
    shapes = [[shape.n_head, shape.n_inner] for shape in model.config.layer_shapes]
    facts = {
        "group": case.group,
        "label": case.label,
        "seed": seed,
        "calibration_tokens": text.num_tokens,
        "parameters": model.config.num_parameters,
        "layers": shapes,
        "seconds": round(seconds, 1),
    }
    row = study.row(model, facts)
    print(
        f"{case.group}, {case.label}, seed {seed}: perplexity {row['perplexity']:.3f}, "
        f"{row['percent']:+.2f} % [{row['percent_low']:+.2f}, {row['percent_high']:+.2f}], KL "
        f"{row['kl']:.4f}{told(row)}  {seconds:.0f} s",
        flush=True,
    )
    return row


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except GPT2FastError as error:
        sys.exit(f"error: {error}")
