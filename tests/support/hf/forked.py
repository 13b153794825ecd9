"""Children forked while other threads call ``gpt2fast.hf``: ``forked.py COUNT``. See
``support/engine/forked.py``."""

from __future__ import annotations

import sys
import warnings
from typing import Any

import torch

from support.engine.forked import fork_many
from support.engine.interrupts import Task
from support.hf.interrupts import tasks
from support.hf_pair import pair, texts


def main(count: int) -> None:
    warnings.filterwarnings("error", "gpt2fast leaves")
    model = pair()[0]
    # One, as in a DataLoader's workers: OpenMP's own threads do not come along into a child.
    torch.set_num_threads(1)

    def work() -> None:
        assert torch.get_num_threads() == 1

    many = torch.cat([texts(8, 90)] * 8)

    def long() -> Any:
        with torch.no_grad():
            return model(many).logits[-1].tolist()

    # Long steps: nearly all forks are in the middle of one.
    fork_many(tasks(model, threads=1), count, work, [Task(long)])


if __name__ == "__main__":
    main(int(sys.argv[1]))
