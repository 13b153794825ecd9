"""One system on one model in a process of its own: ``python -m gpu.worker '<JSON>'``.

The argument has "kind", "path" and "options". Requests are those of gpt2fast/bench/process.py.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any, Protocol

from gpt2fast.bench.pool import random_prompts
from gpt2fast.bench.request_loop import answer_requests

PROMPT, SHORT, LONG = 16, 16, 128  # tokens of a decode case
Tokens = list[list[int]]


class System(Protocol):
    """What is timed."""

    def load(self, length: int) -> None: ...

    def warm(self, batch: int) -> None: ...

    def generate(self, prompts: Tokens, new: int) -> Tokens: ...


class Worker:
    """Answers requests by the method of the same name; times are seconds of the wall clock."""

    def __init__(self, system: System) -> None:
        self._system = system

    def load(self, batches: list[int]) -> dict[str, Any]:
        """Ready to decode batches of these sizes; what that took."""
        start = time.perf_counter()
        self._system.load(PROMPT + LONG)
        loaded = time.perf_counter()
        for batch in batches:
            self._system.warm(batch)
        return {"load": loaded - start, "warm": time.perf_counter() - loaded}

    def warm(self, batch: int) -> dict[str, Any]:
        """A batch of another size; the graphs of its whole length, too."""
        start = time.perf_counter()
        self._system.warm(batch)
        self.decode(batch, 0)
        return {"seconds": time.perf_counter() - start}

    def tokens(self, seeds: list[int], new: int) -> dict[str, Any]:
        """Greedy tokens after the prompt of each seed."""
        return {"tokens": [self._system.generate(prompts(1, PROMPT, s), new)[0] for s in seeds]}

    def decode(self, batch: int, seed: int) -> dict[str, Any]:
        """Seconds a step: the difference of two lengths, in which the prompt cancels."""
        given = prompts(batch, PROMPT, seed)
        short, long = (self._timed(given, new) for new in (SHORT, LONG))
        return {"step": (long - short) / (LONG - SHORT), "short": short, "long": long}

    def prefill(self, length: int, seed: int) -> dict[str, Any]:
        """Seconds from a prompt to its first token."""
        return {"seconds": self._timed(prompts(1, length, seed), 1)}

    def profile(self) -> dict[str, Any]:
        """What the decode loop asks of CUDA; of our own system only."""
        found: dict[str, Any] = self._system.profile()  # type: ignore[attr-defined]
        return found

    def _timed(self, given: Tokens, new: int) -> float:
        start = time.perf_counter()
        found = self._system.generate(given, new)
        seconds = time.perf_counter() - start
        if {len(row) for row in found} != {new} or len(found) != len(given):
            raise RuntimeError(f"{new} tokens were asked for; {[len(r) for r in found][:4]} came")
        return seconds


def prompts(batch: int, length: int, seed: int) -> Tokens:
    """Random token ids (batch, length), the same for every system; of GPT-2's but the last."""
    return random_prompts(50256, batch, length, (seed, batch, length))


def make_system(kind: str, path: str, options: dict[str, Any]) -> System:
    """A peer by its class, or our own."""
    if kind == "Ours":
        from gpu.ours import Ours

        return Ours(Path(path), **options)
    from gpu import peers

    return peers.make(kind, Path(path), options)


if __name__ == "__main__":
    answer_requests(lambda: Worker(make_system(**json.loads(sys.argv[1]))))
