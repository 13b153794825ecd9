"""Children forked while other threads call ``gpt2fast.hf``: ``forked.py COUNT``. See
``engine/forked.py``."""

from __future__ import annotations

import sys
import warnings

import torch
from engine.forked import fork_many
from hf.interrupts import tasks

from hf_pair import pair


def main(count: int) -> None:
    warnings.filterwarnings("error", "gpt2fast leaves")
    model = pair()[0]
    # One, as in a DataLoader's workers: OpenMP's own threads do not come along into a child.
    torch.set_num_threads(1)

    def work() -> None:
        assert torch.get_num_threads() == 1

    fork_many(tasks(model, threads=1), count, work, threads=1)


if __name__ == "__main__":
    main(int(sys.argv[1]))
