"""What every test of a training run needs: a small corpus, and torch on one thread."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Bit-exact comparisons need a fixed number of threads."""
    torch = pytest.importorskip("torch")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A directory of eight files of words, one of them outside of ASCII."""
    folder = tmp_path_factory.mktemp("text")
    rng = np.random.default_rng(0)
    for index in range(8):
        words = rng.choice(["alpha", "beta", "gamma", "delta", "def", "return", "🙂\n"], 400)
        (folder / f"{index}.txt").write_text(" ".join(words), encoding="utf-8")
    return str(folder)
