"""A process in which calls of ``gpt2fast.hf`` are interrupted at random moments: ``interrupts.py
COUNT``. See ``support/engine/interrupts.py``."""

from __future__ import annotations

import gc
import os
import sys
import warnings
from typing import Any

import torch

from support.engine.interrupts import Task, interrupt_all
from support.hf_pair import NO_END, pair, texts

THREADS = 2


def tasks(model: Any, threads: int = THREADS) -> list[Task]:
    """Greedy decoding, sampling, several texts, beams, a decoding loop of one's own, scoring."""
    given = {**NO_END, "max_new_tokens": 8, "attention_mask": torch.ones_like(texts())}
    one = {**given, "attention_mask": torch.ones_like(texts(1))}

    def generate(ids: Any, **options: Any) -> Any:
        # Each with random numbers of its own: other threads draw from torch's generator, too.
        return model.generate(ids, **options).tolist()

    def forward() -> Any:
        with torch.inference_mode():
            found = model(texts(2))
            again = model(texts(2)[:, :1], past_key_values=found.past_key_values)
        return again.logits.tolist()

    class Own:
        def __call__(self, ids: Any, scores: Any) -> Any:
            assert torch.get_num_threads() == threads
            return scores + 1

    return [
        Task(lambda: generate(texts(), **given)),
        Task(lambda: generate(texts(1), **one, logits_processor=[Own()])),
        Task(lambda: generate(texts(1), **one, num_beams=3, num_return_sequences=2)),
        Task(forward),
    ]


def main(count: int) -> None:
    warnings.filterwarnings("error", "gpt2fast leaves")
    torch.set_num_threads(THREADS)
    model = pair()[0]
    calls = tasks(model)
    pool = model.transformer._gpt2fast_backend.pool

    def idle() -> None:
        gc.collect()
        assert pool.stats()["sequences"] == pool.stats()["used"] == 0, pool.stats()
        assert torch.get_num_threads() == THREADS
        torch.set_grad_enabled(True)  # torch's own no_grad() may have been stopped at its end

    print(interrupt_all(calls, idle, count, seed=os.getpid()))


if __name__ == "__main__":
    main(int(sys.argv[1]))
