"""What the engine adds to the runner's work, and what sampling costs: ``LLM.generate`` of random
weights in several checkouts of this project, in turns.

    python benchmarks/engine_steps.py --checkouts . ../before --rounds 5

A checkout needs its extension built. Each round runs every case in every checkout, begun by another
one. Printed are medians: milliseconds a step, microseconds of it outside the runner's calls, and
the speed relative to the last checkout and to greedy decoding of the same format and batch.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable
from itertools import product
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

FORMATS = ("float32", "int8", "int4")
BATCHES = (1, 16, 64)
SAMPLING: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0.0},
    "sampled": {"temperature": 0.8, "top_p": 0.95},
    "penalized": {"temperature": 0.8, "top_p": 0.95, "repetition_penalty": 1.1,
                  "frequency_penalty": 0.2},
}  # fmt: skip
_CALLS = ("step", "sample", "sample_more", "step_and_sample")


def timed(runner: Any) -> list[float]:
    """Wraps what the engine calls of ``runner``; the list sums the seconds of it."""
    total = [0.0]

    def wrap(call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any) -> Any:
            start = perf_counter()
            result = call(*arguments)
            total[0] += perf_counter() - start
            return result

        return wrapped

    for name in _CALLS:
        if hasattr(runner, name):
            setattr(runner, name, wrap(getattr(runner, name)))
    return total


def work(model: str) -> None:
    """Answers cases (JSON lines) with [seconds a step, of them outside the runner]."""
    from gpt2fast import LLM, SamplingParams

    llms: dict[str, tuple[Any, list[float]]] = {}
    for line in sys.stdin:
        form, batch, options, tokens = json.loads(line)
        if form not in llms:
            scheme = None if form == "float32" else form
            llm = LLM(model, quantization=scheme, prefix_caching=False, kv_cache_tokens=16384)
            llms[form] = llm, timed(llm._open_runner())
        llm, inside = llms[form]
        params = [
            SamplingParams(max_tokens=tokens, ignore_eos=True, seed=number, **options)
            for number in range(batch)
        ]
        prompts = [[number + 1, 7, 9, 11] for number in range(batch)]
        inside[0] = 0.0
        start = perf_counter()
        llm.generate(prompts, params)
        seconds = perf_counter() - start
        print(json.dumps([seconds / tokens, (seconds - inside[0]) / tokens]), flush=True)


class Worker:
    """A process that runs one checkout."""

    def __init__(self, checkout: str, model: Path) -> None:
        self.name = checkout
        environment = {**os.environ, "PYTHONPATH": str(Path(checkout).resolve())}
        command = [sys.executable, str(Path(__file__).resolve()), "--worker", str(model)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def ask(self, case: list[Any]) -> list[float]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(case) + "\n")
        self._process.stdin.flush()
        answer: list[float] = json.loads(self._process.stdout.readline())
        return answer


def measure(
    workers: list[Worker], form: str, batch: int, tokens: int, rounds: int
) -> dict[tuple[str, str], list[list[float]]]:
    """Answers by kind of sampling and worker; the first round is not counted."""
    pairs = [(kind, worker) for kind in SAMPLING for worker in workers]
    found: dict[tuple[str, str], list[list[float]]] = {(k, w.name): [] for k, w in pairs}
    for number in range(rounds + 1):
        start = number % len(pairs)
        for kind, worker in pairs[start:] + pairs[:start]:
            answer = worker.ask([form, batch, SAMPLING[kind], tokens])
            if number:
                found[kind, worker.name].append(answer)
    return found


def report(found: dict[tuple[str, str], list[list[float]]], title: str, base: str) -> None:
    """A line for each kind of sampling and checkout."""

    def ratio(first: tuple[str, str], second: tuple[str, str]) -> float:
        return median(a[0] / b[0] for a, b in zip(found[first], found[second], strict=True))

    for (kind, worker), answers in found.items():
        step, outside = (median(each) for each in zip(*answers, strict=True))
        mine = kind, worker
        print(
            f"{title} {kind:10s} {worker:12s} {step * 1e3:8.3f} ms {outside * 1e6:7.1f} us outside"
            f"  {ratio((kind, base), mine):5.3f}x base  {ratio(('greedy', worker), mine):5.3f} of"
            " greedy",
            flush=True,
        )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--checkouts", nargs="+", default=["."], help="the last is the base")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--formats", nargs="+", default=FORMATS)
    parser.add_argument("--batches", nargs="+", type=int, default=BATCHES)
    parser.add_argument("--work", type=Path, default=Path("build/bench-models"))
    arguments = parser.parse_args()
    if arguments.worker:
        work(arguments.worker)
        return
    from gpt2fast.bench.sizes import random_checkpoint
    from gpt2fast.host import processor_name

    model = random_checkpoint("gpt2", arguments.work)
    workers = [Worker(checkout, model.resolve()) for checkout in arguments.checkouts]
    print(processor_name(), flush=True)
    for form, batch in product(arguments.formats, arguments.batches):
        found = measure(workers, form, batch, arguments.tokens, arguments.rounds)
        report(found, f"{form:8s} batch {batch:2d}", workers[-1].name)


if __name__ == "__main__":
    main()
