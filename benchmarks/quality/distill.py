"""What a teacher is worth: half-depth students of the bundled model after equal steps.

    python benchmarks/quality/distill.py [--quick] [--work build/distill]

For each seed the same student sees the same text three times: with its teacher (forward KL), with
next tokens alone, and, of the same shape, from random weights. Perplexity is that of text that
neither students nor teacher were trained on, in windows side by side, with the 95 % interval of
the paired difference. Rows go to ``benchmarks/results/distill.json``. A run that was interrupted
goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gpt2fast.checkpoint import open_checkpoint
from gpt2fast.compress.distill.distill import distill
from gpt2fast.compress.distill.options import DistillOptions
from gpt2fast.compress.state.model import open_model
from gpt2fast.evaluate.bootstrap import paired_comparison
from gpt2fast.evaluate.scoring import token_nats
from gpt2fast.evaluate.windows import groups_of, plain_windows
from gpt2fast.train.corpus import python_documents, split
from gpt2fast.train.options import TrainOptions
from gpt2fast.train.run import train

RESULTS = Path(__file__).resolve().parents[1] / "results" / "distill.json"
CONTEXT, DEPTH = 128, 2
FULL = {"seeds": 3, "steps": 150, "batch_size": 16, "files": 1000, "characters": 400_000}
QUICK = {"seeds": 1, "steps": 12, "batch_size": 2, "files": 20, "characters": 8_000}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="seconds, to see that it runs")
    parser.add_argument("--work", type=Path, default=Path("build/distill"))
    args = parser.parse_args()
    size = QUICK if args.quick else FULL
    work = args.work / ("quick" if args.quick else "full")
    write_texts(work, size)
    rows = []
    for seed in range(size["seeds"]):
        nats = {}
        for name in ("taught", "alone", "scratch"):
            out = work / f"{name}-{seed}"
            student(name, seed, out, size)
            held_out = held_out_windows(out)
            nats[name] = nats_of(out, held_out)
        rows.append(row(seed, nats, groups_of(plain_windows(held_out))))
        print(json.dumps(rows[-1]), flush=True)
    result = summary(rows, nats_of("demo", held_out), size)
    print(json.dumps(result["median"], indent=2))
    if not args.quick:
        RESULTS.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def write_texts(work: Path, size: dict[str, int]) -> None:
    """Python's own text, split as it was for the teacher, into ``work/texts``."""
    corpus = split(python_documents(), 0.05)
    folder = work / "texts"
    (folder / "train").mkdir(parents=True, exist_ok=True)
    for index, document in enumerate(corpus.train[: size["files"]]):
        (folder / "train" / f"{index:04d}.txt").write_text(document.text, encoding="utf-8")
    pieces = [document.text[:8000] for document in corpus.held_out]
    text = "\n".join(pieces)[: size["characters"]]
    (folder / "held-out.txt").write_text(text, encoding="utf-8")


def student(name: str, seed: int, out: Path, size: dict[str, int]) -> None:
    """Train one student, unless it is there already."""
    if (out / "training.json").is_file():
        return
    options: dict[str, Any] = {
        "out": str(out),
        "data": (str(out.parent / "texts" / "train"),),
        "held_out_data": (str(out.parent / "texts" / "held-out.txt"),),
        "context": CONTEXT,
        "batch_size": size["batch_size"],
        "steps": size["steps"],
        "warmup": size["steps"] // 10,
        "lr": 3e-4,
        "seed": seed,
        "eval_every": size["steps"],
        "resume": (out / "run").exists(),
    }
    if name == "scratch":
        with open_checkpoint("demo") as teacher:
            c = teacher.config
            shape = {"n_embd": c.n_embd, "n_head": c.n_head, "n_positions": c.n_positions}
            place = str(teacher.path)
        options["lr"] = 1e-3  # random weights bear and need more
        train(TrainOptions(n_layer=DEPTH, tokenizer=place, **shape, **options))
        return
    alone = {"divergence_weight": 0.0, "ce_weight": 1.0} if name == "alone" else {}
    distill(DistillOptions(teacher="demo", depth=DEPTH, **alone, **options))


def held_out_windows(out: Path) -> NDArray[np.int64]:
    """Windows (N, CONTEXT + 1) of the files that no run is trained on, the teacher's neither."""
    tokens = np.load(out / "run" / "held_out.npy").astype(np.int64)
    starts = np.arange((len(tokens) - 1) // CONTEXT)[:, None] * CONTEXT
    return np.asarray(tokens[starts + np.arange(CONTEXT + 1)])


def nats_of(model: Path | str, windows: NDArray[np.int64]) -> NDArray[np.float64]:
    """Of every predicted token."""
    network = open_model(model).network

    @torch.no_grad()
    def scorer(token_ids: Sequence[int]) -> NDArray[np.float32]:
        return network(torch.tensor([token_ids]))[0].numpy()

    return token_nats(scorer, plain_windows(windows))


def row(
    seed: int, nats: dict[str, NDArray[np.float64]], groups: NDArray[np.int64]
) -> dict[str, Any]:
    """Perplexities, and how far the others' are above that of the student with a teacher."""
    return {
        "seed": seed,
        "perplexity": {name: math.exp(values.mean()) for name, values in nats.items()},
        **{
            f"{name}_above_taught": paired_comparison(nats["taught"], nats[name], groups).as_dict()
            for name in ("alone", "scratch")
        },
    }


def summary(
    rows: list[dict[str, Any]], teacher: NDArray[np.float64], size: dict[str, int]
) -> dict[str, Any]:
    """All rows and their medians."""
    names = list(rows[0]["perplexity"])
    return {
        "command": "python benchmarks/quality/distill.py",
        "teacher": "demo",
        "depth": DEPTH,
        "context": CONTEXT,
        **size,
        "machine": platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "teacher_perplexity": math.exp(teacher.mean()),
        "median": {
            name: statistics.median(row["perplexity"][name] for row in rows) for name in names
        },
        "rows": rows,
    }


if __name__ == "__main__":
    main()
