"""Calibration text: the user's, or the model's own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gpt2fast.checkpoint import open_checkpoint
from gpt2fast.compress.calibration.calibration import generate_calibration, read_calibration
from gpt2fast.errors import OptionError


@pytest.fixture(scope="module")
def tokenizer() -> object:
    with open_checkpoint("demo") as checkpoint:
        return checkpoint.load_tokenizer()


def test_windows_of_the_text(tmp_path: Path, tokenizer: object) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.txt").write_text(f"def {name}():\n    return 1\n" * 200)
    first, again, other = (
        read_calibration([str(tmp_path)], tokenizer, 6, 48, seed, 0) for seed in (0, 0, 1)
    )
    assert first.windows.shape == (6, 48)
    assert first.windows.dtype == np.int64
    assert str(tmp_path) in first.origin
    np.testing.assert_array_equal(first.windows, again.windows)
    assert not np.array_equal(first.windows, other.windows)
    every = read_calibration([str(tmp_path)], tokenizer, 10**6, 48, 0, 0).windows
    text = (tmp_path / "a.txt").read_text()
    ids = [*tokenizer.encode(text).ids, 0]
    ids += [*tokenizer.encode((tmp_path / "b.txt").read_text()).ids, 0]
    assert len(every) in (len(ids) // 48, len(ids) // 48 - 1)
    joined = " ".join(map(str, ids))
    assert all(" ".join(map(str, row)) in joined for row in every)
    assert len({row.tobytes() for row in np.sort(every)}) > 1


def test_missing_and_short_text_is_named(tmp_path: Path, tokenizer: object) -> None:
    with pytest.raises(OptionError, match=r"missing\.txt"):
        read_calibration([str(tmp_path / "missing.txt")], tokenizer, 4, 64, 0)
    (tmp_path / "short.txt").write_text("too little")
    with pytest.raises(OptionError, match=r"short\.txt: \d+ tokens.*fewer than a window of 64"):
        read_calibration([str(tmp_path / "short.txt")], tokenizer, 4, 64, 0)
    with pytest.raises(OptionError, match="at least 1"):
        read_calibration([str(tmp_path / "short.txt")], tokenizer, 0, 64, 0)


def test_text_of_its_own() -> None:
    first, again, other = (
        generate_calibration("demo", 3, 20, seed, num_threads=1) for seed in (5, 5, 6)
    )
    assert first.windows.shape == (3, 20)
    np.testing.assert_array_equal(first.windows, again.windows)
    assert not np.array_equal(first.windows, other.windows)
    assert len({row.tobytes() for row in first.windows}) == 3
    with pytest.raises(OptionError, match="exceed the context"):
        generate_calibration("demo", 1, 10**6, 0)
