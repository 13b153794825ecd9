"""Children forked while other threads generate: ``forked.py CHECKPOINT COUNT``.

Each child generates what the parent does, and exits the usual way, within a time in which even a
busy machine gets there. ``support/hf/forked.py`` does the same to ``gpt2fast.hf``.
"""

from __future__ import annotations

import faulthandler
import os
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from gpt2fast import LLM, SamplingParams
from gpt2fast.errors import GPT2FastError
from support.engine.interrupts import Beside, Task, llm_tasks

SECONDS = 60


def fork_many(
    tasks: Sequence[Task], count: int, work: Callable[[], None], beside: Sequence[Task]
) -> None:
    """Fork ``count`` children that run ``tasks`` and ``work``, while two threads run ``beside``."""
    # Said of every fork beside threads, which is what this is about.
    warnings.filterwarnings("ignore", ".*fork", DeprecationWarning)
    others = Beside(beside)
    try:
        for number in range(count):
            time.sleep(0.001 * (number % 10))
            child = os.fork()
            if child == 0:
                faulthandler.dump_traceback_later(SECONDS, exit=True)
                for task in tasks:
                    task.check()
                work()
                sys.exit(0)
            _, status = os.waitpid(child, 0)
            assert status == 0, (number, status)
    finally:
        if os.getpid() == PARENT:
            others.join()
    print(count, "children")


PARENT = os.getpid()


def main(path: Path, count: int) -> None:
    with LLM(path, num_threads=2) as llm:
        slow = SamplingParams(temperature=0.0, max_tokens=90, ignore_eos=True)
        begun = llm.stream([1, 2, 3], slow)
        next(begun)

        def work() -> None:
            others = Beside(llm_tasks(llm))  # a child has threads of its own, too
            others.join()
            with pytest.raises(GPT2FastError, match="forked"):  # it is the parent's
                list(begun)
            stats = llm.stats()
            assert stats["sequences"] == stats["running"] == stats["waiting"] == 0, stats

        fork_many(llm_tasks(llm), count, work, llm_tasks(llm))
        assert len(list(begun)) > 0


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
