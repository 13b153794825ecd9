"""Whether a runner gives the same bits however the work is cut."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from gpt2fast.config import ModelConfig
from gpt2fast.runners.base import Runner
from support.paged import PagedSequences


def tokens_for(config: ModelConfig, count: int, seed: int = 0) -> NDArray[np.int32]:
    return np.random.default_rng(seed).integers(0, config.vocab_size, count).astype(np.int32)


def check_bits(make: Callable[[int], Runner], data: st.DataObject) -> None:
    """``make(threads)`` makes the runner. Prompts that may share a prefix are run alone and whole
    on one thread; then together, in chunks, over a reused prefix, on 1 to 3 threads."""
    alone, runner = make(1), make(data.draw(st.integers(1, 3), "threads"))
    lengths = data.draw(st.lists(st.integers(2, 90), min_size=1, max_size=5), "lengths")
    shared = data.draw(st.integers(0, 48), "shared prefix")
    prompts = [tokens_for(runner.config, n, seed=i + 1) for i, n in enumerate(lengths)]
    for prompt in prompts[1:]:
        common = min(shared, len(prompt), len(prompts[0]))
        prompt[:common] = prompts[0][:common]
    want = [PagedSequences(alone).logits(p, [len(p)]) for p in prompts]

    paged = PagedSequences(runner, prefix_caching=True)
    live: dict[int, tuple[int, int]] = {}
    waiting = list(range(len(prompts)))
    while waiting or live:
        if waiting and (not live or data.draw(st.booleans(), "admit")):
            index = waiting.pop(0)
            live[index] = paged.create(prompts[index])
        chunks = {}
        for index, (sequence, done) in live.items():
            size = data.draw(st.integers(1, 40), "chunk")
            chunks[index] = (sequence, prompts[index][done : done + size])
        for (index, (sequence, tokens)), got in zip(
            chunks.items(), paged.step(list(chunks.values())), strict=True
        ):
            done = live[index][1]
            end = done + len(tokens)
            assert got.tobytes() == want[index][done:end].tobytes()
            live[index] = (sequence, end)
            if end == len(prompts[index]):
                paged.pool.free(sequence)
                del live[index]


def check_forks(runner: Runner) -> None:
    """Two continuations of one sequence get the bits that each has alone."""
    stem, left, right = (tokens_for(runner.config, n, seed=n) for n in (21, 30, 17))
    want = [
        PagedSequences(runner).logits(np.concatenate([stem, tail]), [21 + len(tail)])[21:]
        for tail in (left, right)
    ]
    paged = PagedSequences(runner)
    first, _ = paged.create(stem)
    paged.step([(first, stem)])
    second = paged.pool.fork(first)
    got = paged.step([(first, left), (second, right)])
    assert paged.pool.stats()["copies"] == 1
    assert [g.tobytes() for g in got] == [w.tobytes() for w in want]
