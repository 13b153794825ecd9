"""What a saved candidate costs and brings, beside the original: both loaded as users load them."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpt2fast.compress.progress import ProgressCallback
from gpt2fast.engine.llm import LLM
from gpt2fast.evaluate import Comparison, Window, paired_comparison, token_nats
from gpt2fast.sampling_params import SamplingParams

WARM_UP = 8  # tokens
LEAST_SECONDS = 0.25  # of a timing: a tiny model writes all its tokens in less than a time slice


@dataclass(frozen=True)
class Speed:
    """Decoding at batch 1, in tokens a second: medians over rounds in which both took turns."""

    original: float
    compressed: float
    speedup: float  # the median of the rounds' own ratios
    low: float  # the smallest and the largest of them
    high: float
    rounds: int
    prompt: int
    new_tokens: int

    def to_json(self) -> dict[str, Any]:
        """For the report."""
        return dict(vars(self))


def measure_speed(
    original: LLM, compressed: LLM, *, prompt: int = 128, new_tokens: int = 64, rounds: int = 5
) -> Speed:
    """Time both in turns, greedily, from random prompts of ``prompt`` tokens; shorter ones where
    the context is. The prompt itself is not timed: it is in the cache."""
    context = min(original.config.n_positions, compressed.config.n_positions)
    new_tokens = max(2, min(new_tokens, context // 2))
    prompt = max(1, min(prompt, context - new_tokens - 1))
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, original.config.vocab_size, prompt).tolist()
    pairs = []
    for llm in (original, compressed):
        _rate(llm, tokens, min(WARM_UP, new_tokens))
    for number in range(rounds):
        # Each goes first as often as the other: what runs second finds a warmer or busier machine.
        order = (original, compressed) if number % 2 == 0 else (compressed, original)
        rates = {id(llm): _rate(llm, tokens, new_tokens) for llm in order}
        pairs.append((rates[id(original)], rates[id(compressed)]))
    ratios = [after / before for before, after in pairs]
    return Speed(
        original=statistics.median(before for before, _ in pairs),
        compressed=statistics.median(after for _, after in pairs),
        speedup=statistics.median(ratios),
        low=min(ratios),
        high=max(ratios),
        rounds=rounds,
        prompt=prompt,
        new_tokens=new_tokens,
    )


def _rate(llm: LLM, tokens: list[int], count: int) -> float:
    params = SamplingParams(max_tokens=count, temperature=0.0, ignore_eos=True)
    begin, done, elapsed = time.perf_counter(), 0, 0.0
    while elapsed < LEAST_SECONDS:
        llm.generate(tokens, params)
        done, elapsed = done + count, time.perf_counter() - begin
    return done / elapsed


def as_windows(rows: NDArray[np.int64]) -> list[Window]:
    """Each row (T,) as a window of its own, all of whose tokens but the first are predicted."""
    return [Window(tuple(row.tolist()), rows.shape[1] - 1, group) for group, row in enumerate(rows)]


def window_nats(llm: LLM, rows: NDArray[np.int64], step: Callable[[], None]) -> NDArray[np.float64]:
    """Negative log-likelihood of each predicted token of the rows (N, T): (N (T - 1),). ``step`` is
    called after each row."""
    return token_nats(llm.logits, as_windows(rows), step)


def counted(say: ProgressCallback, what: str, total: int) -> Callable[[], None]:
    """What is called after each of ``total`` windows and says how many are done."""
    numbers = itertools.count(1)
    return lambda: say(f"measuring {what}: {next(numbers)} of {total} windows")


def compare(
    before: NDArray[np.float64], after: NDArray[np.float64], rows: NDArray[np.int64]
) -> Comparison:
    """``after`` less ``before``, resampled by windows."""
    groups = np.repeat(np.arange(len(rows)), rows.shape[1] - 1)
    return paired_comparison(before, after, groups)


def stored_bytes(directory: Path) -> int:
    """Bytes of the weights of a checkpoint as stored."""
    from gpt2fast.checkpoint import open_checkpoint

    with open_checkpoint(directory) as checkpoint:
        return checkpoint.num_bytes
