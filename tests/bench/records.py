"""Samples whose answers can be worked out by hand, as records."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gpt2fast.bench.grid import Case, Model, Sizes, expand
from gpt2fast.bench.options import BenchOptions, Plan
from gpt2fast.bench.pool import Starts, worker_key
from gpt2fast.bench.probe import Probe
from gpt2fast.bench.rows import make_record
from gpt2fast.bench.run import Measured, Sample
from gpt2fast.config import ModelConfig

CONFIG = ModelConfig.from_dict(
    {"n_embd": 8, "n_layer": 2, "n_head": 2, "vocab_size": 50, "n_positions": 256}, "config.json"
)
MODEL = Model("tiny <b>", Path("tiny"), CONFIG)
SYSTEMS = [("gpt2fast", "float32"), ("openvino", "int8")]


def sample(number: int, first: float, steps: list[float]) -> Sample:
    times = [first]
    for step in steps:
        times.append(times[-1] + step)
    return Sample(number, tuple(times), 1e9, 2_000_000 + number, was_idle_after=True)


def measure(batches: tuple[int, ...] = (1,), quality: bool = True) -> tuple[Plan, Measured]:
    """Round r of gpt2fast takes 1, 2, 3 ms a token; openvino twice as long in each round."""
    cases = expand([MODEL], SYSTEMS, Sizes(batches, (10,), (101,), (2,)))
    measured = Measured(peaks={("float32", 2): [1e9, 3e9, 2e9]})
    for case in cases:
        factor = 2 if case.variant.system == "openvino" else 1
        for number in range(3):
            step = factor * (number + 1) * 1e-3
            found = sample(number, 10 * step, [step] * 100)
            measured.samples.setdefault(case, []).append(found)
        probe = Probe(agreement=32, agreement_of=32, versions={"numpy": "1.2"})
        if quality:
            probe.quality = {"perplexity": 20.0 + factor, "bits_per_byte": 1.0}
        measured.probes[case.variant] = probe
        measured.starts[worker_key(case)] = Starts([0.2, 0.1, 0.9], [1.0, 2.0, 4.0], 1, 1000, 4)
    return Plan(BenchOptions(), tuple(cases), cases[0].variant, {}, Path(), None), measured


def record_of(plan: Plan, measured: Measured) -> dict[str, Any]:
    return make_record(plan, measured, "gpt2fast bench", "2030-01-01")


def fail_second(plan: Plan, measured: Measured) -> Case:
    case = plan.cases[1]
    measured.failures[case] = ("died", "the process was killed by SIGKILL")
    return case
