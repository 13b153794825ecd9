"""Whether pruning brings the speed that its bytes promise, in one interleaved run.

    python benchmarks/quality/prune_speed.py
    python benchmarks/quality/prune_speed.py --quick       a tiny model, to see that it works

Random weights of GPT-2's size (124M), 128 tokens after a prompt of 128, batch 1, as many threads as
the machine has cores: the dense model in float32, int8 and int4, and the same with half of the
layers, half of the neurons, half of the heads, or layers of different shapes. A step reads all
weights and the cache; that many bytes fewer promise so much more speed. All cases are loaded and
take turns. Exits with 1 where less than 0.9 of the promised speed-up is reached. Models with half
of their weights zero, 2:4 or anywhere, are stored and run as dense ones: they promise nothing.
Rows are appended to benchmarks/results/prune-speed.jsonl.
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np

from gpt2fast import _C
from gpt2fast.bench.peers.native import Native
from gpt2fast.compress.calibration.calibration import Calibration
from gpt2fast.compress.prune import WeightOptions, prune_weights
from gpt2fast.compress.prune.layers import keep_layers
from gpt2fast.compress.state.artifact import save_model
from gpt2fast.compress.state.model import Model, frozen
from gpt2fast.config import LayerShape, ModelConfig
from gpt2fast.host import num_cpus
from gpt2fast.model.gpt2 import GPT2

RESULTS = Path(__file__).resolve().parents[1] / "results" / "prune-speed.jsonl"
FULL = ModelConfig(50257, 1024, 768, 12, 12, 3072)
TINY = ModelConfig(512, 64, 64, 4, 4, 256)
FORMATS = ("float32", "int8", "int4")
BAR = 0.9


def shapes(config: ModelConfig) -> dict[str, ModelConfig]:
    """Structured variants by name."""
    dense = config.layer_shape(0)
    heads, inner = dense.n_head, dense.n_inner
    mixed = [
        LayerShape(max(1, round(heads * h)), max(16, round(inner * n) // 16 * 16))
        for h, n in ((1, 1), (0.6, 0.65), (0.4, 0.33), (0.75, 0.82))
    ]
    half_neurons = [LayerShape(heads, inner // 2)] * config.n_layer
    half_heads = [LayerShape(heads // 2, inner)] * config.n_layer
    different = [mixed[layer % len(mixed)] for layer in range(config.n_layer)]
    return {
        "half of the layers": config.with_layers([dense] * (config.n_layer // 2)),
        "half of the neurons": config.with_layers(half_neurons),
        "half of the heads": config.with_layers(half_heads),
        "layers of different shapes": config.with_layers(different),
    }


def write_models(config: ModelConfig, root: Path) -> dict[str, Path]:
    """A directory for each variant."""
    dense = frozen(GPT2(config))
    networks = {"dense": dense}
    networks |= {name: frozen(GPT2(shape)) for name, shape in shapes(config).items()}
    text = Calibration(np.zeros((1, 8), dtype=np.int64), "none: magnitude needs no text")
    for pattern in ("2:4", "unstructured"):
        layers = range(config.n_layer)
        model = Model(keep_layers(dense, layers), root)  # a copy
        prune_weights(model, text, WeightOptions("magnitude", 0.5, pattern))
        networks[f"50 % zeros, {pattern}"] = model.network
    paths = {}
    for number, (name, network) in enumerate(networks.items()):
        paths[name] = root / str(number)
        save_model(Model(network, root), paths[name])
    return paths


@dataclass
class Case:
    """A variant in a format, loaded."""

    name: str
    format: str
    peer: Native
    bytes: int  # read in a step: weights, and the cache at the mean context
    speeds: list[float]  # tokens a second of each round


def load(path: Path, name: str, fmt: str, threads: int, tokens: int) -> Case:
    """Ready to generate."""
    peer = Native(path)
    peer.load(path, fmt, threads, 2 * tokens, 1)
    weights, cache = peer.weight_bytes(), peer.kv_bytes_per_token()
    assert weights is not None
    assert cache is not None
    return Case(name, fmt, peer, weights + cache * tokens * 3 // 2, [])


def measure(case: Case, prompt: list[int], tokens: int) -> float:
    """Tokens a second, after the first."""
    _, times = case.peer.generate([prompt], tokens, perf_counter)
    return (tokens - 1) / (times[-1] - times[0])


def row_of(case: Case, dense: Case, facts: dict[str, Any]) -> dict[str, Any]:
    """Speed beside that of the dense model in the same rounds, and what the bytes promise."""
    gains = [mine / theirs for mine, theirs in zip(case.speeds, dense.speeds, strict=True)]
    promised = dense.bytes / case.bytes
    p20, p80 = np.quantile(case.speeds, [0.2, 0.8])
    return {
        "model": case.name,
        "format": case.format,
        "tokens_per_second": round(median(case.speeds), 2),
        "p20": round(float(p20), 2),
        "p80": round(float(p80), 2),
        "bytes_per_step": case.bytes,
        "gigabytes_per_second": round(case.bytes * median(case.speeds) / 1e9, 2),
        "speed_up": round(median(gains), 3),
        "promised": round(promised, 3),
        "reached": round(median(gains) / promised, 3),
        **facts,
    }


def main(argv: list[str]) -> int:
    """Measure, append the rows, and say what is reached."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a tiny model, few tokens, no bar")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=num_cpus())
    parser.add_argument("--formats", nargs="+", default=list(FORMATS), choices=FORMATS)
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args(argv)
    config, tokens = (TINY, 16) if args.quick else (FULL, 128)
    prompt = list(range(1, tokens + 1))
    with tempfile.TemporaryDirectory() as root:
        paths = write_models(config, Path(root))
        cases = [
            load(path, name, fmt, args.threads, tokens)
            for fmt in args.formats
            for name, path in paths.items()
        ]
        for number in range(args.rounds + 1):  # the first warms up
            for case in cases:
                speed = measure(case, prompt, tokens)
                case.speeds += [speed] if number else []
            print(f"round {number} of {args.rounds}", file=sys.stderr, flush=True)
    facts = {
        "threads": args.threads,
        "rounds": args.rounds,
        "tokens": [tokens, tokens],
        "isa": _C.isa(),
        "date": datetime.date.today().isoformat(),
    }
    rows = report(cases, facts)
    if args.quick:
        return 0
    with args.out.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    return 1 if any(row["reached"] < BAR for row in rows) else 0


def report(cases: list[Case], facts: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows, printed."""
    dense = {case.format: case for case in cases if case.name == "dense"}
    rows = [row_of(case, dense[case.format], facts) for case in cases]
    print(f"{'format':8} {'model':28} {'tok/s':>8} {'GB/s':>6} {'×':>6} {'promised':>8} reached")
    for row in rows:
        print(
            f"{row['format']:8} {row['model']:28} {row['tokens_per_second']:8.1f} "
            f"{row['gigabytes_per_second']:6.1f} {row['speed_up']:6.2f} {row['promised']:8.2f} "
            f"{row['reached']:7.2f}"
        )
    return rows


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
