"""fp32 decoding at batch 1 beside transformers and the machine's memory bandwidth.

Rounds alternate between gpt2fast and transformers, with the bandwidth measured before and after
each; medians over the rounds are printed.
The greedy tokens must agree before anything is timed.

    python benchmarks/decode_fp32.py [--size gpt2] [--prompt 128] [--tokens 128] [--rounds 5]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import statistics
import time
import warnings
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gpt2fast import _C, LLM, SamplingParams
from gpt2fast.runners.cpu import default_num_threads
from random_checkpoint import SIZES, random_checkpoint

Generate = Callable[[list[int], int], list[int]]


class Sample(NamedTuple):
    """One round of one engine, or the medians of all."""

    first_token_seconds: float
    seconds_per_token: float
    fraction_of_limit: float


def native(path: Path, threads: int) -> Generate:
    """gpt2fast through its public face."""
    llm = LLM(path, num_threads=threads, prefix_caching=False)

    def generate(prompt: list[int], count: int) -> list[int]:
        params = SamplingParams(temperature=0.0, max_tokens=count, ignore_eos=True)
        return list(llm.generate([prompt], params)[0].outputs[0].token_ids)

    return generate


def transformers_sdpa(path: Path, threads: int) -> Generate:
    """transformers' generate with its default attention and key-value cache."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(threads)
    model = AutoModelForCausalLM.from_pretrained(
        path, attn_implementation="sdpa", dtype=torch.float32
    ).eval()

    @torch.inference_mode()
    def generate(prompt: list[int], count: int) -> list[int]:
        ids = torch.tensor([prompt])
        out = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            min_new_tokens=count,
            max_new_tokens=count,
            pad_token_id=0,
        )
        return [int(token) for token in out[0, len(prompt) :]]

    return generate


def timed(generate: Generate, prompt: list[int], tokens: int) -> tuple[float, float]:
    """Seconds to the first token, and seconds a token after it."""
    start = time.perf_counter()
    generate(prompt, 1)
    first = time.perf_counter() - start
    start = time.perf_counter()
    generate(prompt, tokens + 1)
    return first, (time.perf_counter() - start - first) / tokens


def bytes_per_token(size: str, context: float) -> float:
    """Bytes a decode step must read: every matrix once, and the keys and values of ``context``."""
    width, layers, _ = SIZES[size]
    weights = 50257 * width + layers * (12 * width * width + 13 * width) + 2 * width
    return 4.0 * (weights + context * 2 * layers * width)


def engines(path: Path, threads: int) -> dict[str, Generate]:
    """What can be timed here, by name."""
    made = {"gpt2fast": native(path, threads)}
    try:
        import torch  # noqa: F401  # only whether it is there
        import transformers

        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        made["transformers (SDPA)"] = transformers_sdpa(path, threads)
    except ImportError:
        print("transformers is not installed; pip install 'gpt2fast[hf]' to compare with it")
    return made


def measure(args: argparse.Namespace, path: Path) -> dict[str, Any]:
    """Medians over interleaved rounds, and the bandwidth measured between them."""
    prompt = [int(t) for t in np.random.default_rng(0).integers(0, 50257, args.prompt)]
    made = engines(path, args.threads)
    answers = {name: generate(prompt, args.tokens) for name, generate in made.items()}
    if len({tuple(answer) for answer in answers.values()}) != 1:
        raise SystemExit(f"greedy tokens differ, nothing was timed: {answers}")
    size = bytes_per_token(args.size, args.prompt + args.tokens / 2)
    samples: dict[str, list[Sample]] = {name: [] for name in made}
    limits: list[float] = []
    for _ in range(args.rounds):
        for name, generate in made.items():
            # The bandwidth of a shared machine drifts: each figure is held against its own moment.
            before = bandwidth(args.threads)
            first, each = timed(generate, prompt, args.tokens)
            limit = (before + bandwidth(args.threads)) / 2
            limits.append(limit)
            samples[name].append(Sample(first, each, size / each / limit))
    return {
        "bandwidth": statistics.median(limits),
        "rows": {
            name: Sample(*map(statistics.median, zip(*taken, strict=True)))._asdict()
            for name, taken in samples.items()
        },
        "speedup": statistics.median(
            theirs.seconds_per_token / ours.seconds_per_token
            for ours, theirs in zip(samples["gpt2fast"], list(samples.values())[-1], strict=True)
        ),
    }


def bandwidth(threads: int) -> float:
    """Bytes per second read from memory now."""
    return statistics.median(_C.measure_read_bandwidth(threads, repeats=3))


def show(args: argparse.Namespace, result: dict[str, Any]) -> None:
    """The table."""
    limit = result["bandwidth"]
    size = bytes_per_token(args.size, args.prompt + args.tokens / 2)
    print(
        f"{args.size} fp32, random weights, batch 1, {args.prompt} + {args.tokens} tokens, "
        f"{args.threads} threads, medians of {args.rounds} rounds"
    )
    print(f"{'':22}{'prompt ms':>10}{'tok/s':>8}{'GB/s':>8}{'of limit':>10}")
    for name, row in result["rows"].items():
        each = row["seconds_per_token"]
        print(
            f"{name:22}{row['first_token_seconds'] * 1e3:10.0f}{1 / each:8.1f}"
            f"{size / each / 1e9:8.1f}{row['fraction_of_limit']:10.2f}"
        )
    print(f"{'memory limit':22}{'':10}{limit / size:8.1f}{limit / 1e9:8.1f}{1:10.2f}")
    if len(result["rows"]) > 1:
        print(f"gpt2fast decodes {result['speedup']:.2f}x as fast as transformers")


def machine() -> str:
    """The processor's own name for itself, and the number of CPUs."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        name = platform.processor() or platform.machine()
    return f"{name}, {os.cpu_count()} CPUs"


def versions() -> dict[str, str]:
    """Of everything that was timed."""
    found = {"python": platform.python_version()}
    for name in ("gpt2fast", "torch", "transformers"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def main() -> None:
    """Measure, print, and write a row on request."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="gpt2")
    parser.add_argument("--prompt", type=int, default=128)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=default_num_threads())
    parser.add_argument("--cache", type=Path, default=Path("build"), help="for the weights")
    parser.add_argument("--json", type=Path, help="append the result to this file")
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    result = measure(args, random_checkpoint(args.size, args.cache))
    show(args, result)
    if args.json:
        row = {
            "benchmark": "decode_fp32",
            "date": time.strftime("%Y-%m-%d"),
            "machine": machine(),
            "versions": versions(),
            "isa": _C.isa(),
            **{k: getattr(args, k) for k in ("size", "prompt", "tokens", "rounds", "threads")},
            **result,
        }
        with args.json.open("a") as file:
            file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
