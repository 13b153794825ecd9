"""A small trained teacher, its text, and torch on one thread."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("accelerate")

from gpt2fast.train.options import TrainOptions  # noqa: E402
from gpt2fast.train.run import train  # noqa: E402


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Bit-exact comparisons need a fixed number of threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A directory of files of a language with a grammar: each word allows three to follow it."""
    folder = tmp_path_factory.mktemp("text")
    rng = np.random.default_rng(0)
    words = [f"{a}{b}" for a in ("ka", "lo", "mi", "ne", "so") for b in ("ba", "du", "fi", "go")]
    follow = rng.integers(0, len(words), (len(words), 3))
    for index in range(10):
        at, line = 0, []
        for _ in range(500):
            at = follow[at, rng.choice(3, p=[0.6, 0.3, 0.1])]
            line.append(words[at])
        (folder / f"{index}.txt").write_text(" ".join(line), encoding="utf-8")
    return str(folder)


@pytest.fixture(scope="session")
def teacher(text: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of four layers that has learned the text."""
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("teacher") / "model"
    shape = {"vocab_size": 280, "n_embd": 32, "n_layer": 4, "n_head": 4, "n_positions": 32}
    options = {"batch_size": 8, "steps": 30, "warmup": 10, "lr": 1e-2, "held_out": 0.3}
    train(TrainOptions(out=str(out), data=(text,), **shape, **options))
    return out
