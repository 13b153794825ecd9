"""Threads that call ``LLM.generate`` in a loop: is any served later than the others, and do they
get what one call for all their requests would?

    python benchmarks/many_callers.py --threads 16 --requests 8

Prints, for the calls of threads: the mean time to first token of all requests, that of the thread
that waits longest as a multiple of it, and tokens a second beside one call's, in turns.
"""

from __future__ import annotations

import argparse
import threading
from pathlib import Path
from statistics import mean, median
from time import perf_counter

from gpt2fast import LLM, RequestOutput, SamplingParams
from gpt2fast.bench.sizes import random_checkpoint
from gpt2fast.host import processor_name

PARAMS = SamplingParams(temperature=0, max_tokens=32, ignore_eos=True)


def prompt(thread: int, number: int) -> list[int]:
    """Sixteen tokens that no other request begins with."""
    return [1 + thread, 1 + number, *range(100, 114)]


def first_token_seconds(output: RequestOutput) -> float:
    """From the request's arrival to its first token."""
    return output.metrics.first_token_time - output.metrics.arrival_time


def from_threads(llm: LLM, threads: int, requests: int) -> tuple[float, list[float]]:
    """Seconds of all, and of each thread the mean time to first token."""
    waits: list[list[float]] = [[] for _ in range(threads)]
    ready = threading.Barrier(threads + 1)

    def call(thread: int) -> None:
        ready.wait()
        for number in range(requests):
            (output,) = llm.generate([prompt(thread, number)], PARAMS)
            waits[thread].append(first_token_seconds(output))

    callers = [threading.Thread(target=call, args=(thread,)) for thread in range(threads)]
    for caller in callers:
        caller.start()
    ready.wait()
    start = perf_counter()
    for caller in callers:
        caller.join()
    return perf_counter() - start, [mean(each) for each in waits]


def in_one_call(llm: LLM, threads: int, requests: int) -> float:
    """Seconds of the same requests."""
    prompts = [prompt(t, number) for number in range(requests) for t in range(threads)]
    start = perf_counter()
    llm.generate(prompts, PARAMS)
    return perf_counter() - start


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=16)
    parser.add_argument("--requests", type=int, default=8, help="of each thread")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quantization", default="int8")
    parser.add_argument("--work", type=Path, default=Path("build/bench-models"))
    arguments = parser.parse_args()
    model = random_checkpoint("gpt2", arguments.work)
    count = arguments.threads, arguments.requests
    # As many sequences at once as there are threads, for both.
    with LLM(
        model,
        quantization=arguments.quantization,
        max_seqs=arguments.threads,
        prefix_caching=False,
    ) as llm:
        in_one_call(llm, arguments.threads, 1)
        worst, means, ratios = [], [], []
        for _ in range(arguments.rounds):
            seconds, waits = from_threads(llm, *count)
            means.append(mean(waits))
            worst.append(max(waits) / mean(waits))
            ratios.append(in_one_call(llm, *count) / seconds)
    print(processor_name())
    print(
        f"{arguments.threads} threads: first token after {median(means) * 1e3:.1f} ms, the slowest "
        f"thread {median(worst):.2f} times that; {median(ratios):.3f} of one call's speed"
    )


if __name__ == "__main__":
    main()
