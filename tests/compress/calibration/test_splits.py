"""Three parts of text that have nothing in common."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpt2fast.checkpoint import open_checkpoint
from gpt2fast.compress.calibration import splits as texts_module
from gpt2fast.compress.calibration.splits import SHARES, Sizes, split_texts, written_texts
from gpt2fast.errors import CheckpointError, OptionError

pytestmark = pytest.mark.usefixtures("short_timings")

SIZES = Sizes(length=16, calibration=20, selection=9, verification=11)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    with open_checkpoint("demo") as checkpoint:
        return checkpoint.load_tokenizer()


def write(folder: Path, count: int, words: int, start: int = 0) -> list[str]:
    """Files of numbers, each number once in all of them."""
    folder.mkdir(exist_ok=True)
    for index in range(count):
        first = start + index * words
        text = " ".join(f"{number:06d}" for number in range(first, first + words))
        (folder / f"{start}-{index}.txt").write_text(text)
    return [str(folder)]


def numbers(windows: np.ndarray, tokenizer: Any) -> set[str]:
    return {
        word
        for row in windows
        for word in tokenizer.decode(row.tolist()).split()
        if len(word) == 6 and word.isdigit()
    }


@pytest.mark.parametrize(("count", "words"), [(1, 3000), (3, 900), (40, 60)])
def test_no_text_is_in_two_parts(tmp_path: Path, tokenizer: Any, count: int, words: int) -> None:
    texts = split_texts(write(tmp_path / "t", count, words), tokenizer, 0, SIZES)
    found = [numbers(texts.parts[name], tokenizer) for name in SHARES]
    assert all(found)
    # A number may be cut in two at the end of a window; whole ones are in one part alone.
    assert not found[0] & found[1]
    assert not found[0] & found[2]
    assert not found[1] & found[2]
    for name in SHARES:
        assert texts.parts[name].shape[1] == 16
        assert 8 <= len(texts.parts[name]) <= SIZES.of(name)


def test_text_to_verify_on_is_its_own(tmp_path: Path, tokenizer: Any) -> None:
    mine, other = write(tmp_path / "a", 2, 1500), write(tmp_path / "b", 1, 900, start=500_000)
    # A copy of a file that passes may see is left out of what is verified on.
    (tmp_path / "b" / "copy.txt").write_text((tmp_path / "a" / "0-0.txt").read_text())
    texts = split_texts(mine, tokenizer, 0, SIZES, other)
    assert all(int(n) >= 500_000 for n in numbers(texts.parts["verification"], tokenizer))
    assert all(int(n) < 500_000 for n in numbers(texts.parts["selection"], tokenizer))


def test_the_key_tells_texts_apart(tmp_path: Path, tokenizer: Any) -> None:
    first = split_texts(write(tmp_path / "a", 1, 3000), tokenizer, 0, SIZES)
    again = split_texts([str(tmp_path / "a")], tokenizer, 0, SIZES)
    other = split_texts(write(tmp_path / "b", 1, 3000, start=9000), tokenizer, 0, SIZES)
    assert first.key == again.key != other.key


def test_too_little_text_and_missing_files(tmp_path: Path, tokenizer: Any) -> None:
    with pytest.raises(OptionError, match=r"windows of 16 tokens, at least 8 are needed"):
        split_texts(write(tmp_path / "t", 1, 100), tokenizer, 0, SIZES)
    with pytest.raises(OptionError, match=r"none\.txt: no text files there"):
        split_texts([str(tmp_path / "none.txt")], tokenizer, 0, SIZES)


def test_repeated_passages_are_verified_on_by_nobody(tmp_path: Path, tokenizer: Any) -> None:
    """Neither a file that has its text twice nor a copy with another beginning gets through."""
    (file,) = write(tmp_path / "a", 1, 3000)
    once = (tmp_path / "a" / "0-0.txt").read_text()
    (tmp_path / "b.txt").write_text("another beginning " + once)
    with pytest.raises(OptionError, match=r"besides \d+ that repeat text of the other parts"):
        split_texts([file], tokenizer, 0, SIZES, [str(tmp_path / "b.txt")])
    more = " ".join(f"{number:06d}" for number in range(700_000, 703_000))
    (tmp_path / "c.txt").write_text(once[:10_000] + more + once[:5000])  # the end repeats
    texts = split_texts([str(tmp_path / "c.txt")], tokenizer, 0, SIZES)
    assert texts.left_out["verification"] > 10
    found = [numbers(texts.parts[name], tokenizer) for name in SHARES]
    assert len(found[0] & found[2]) <= 2, "at the ends of what is repeated alone"


def test_text_that_the_model_wrote_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_checkpoint("demo") as checkpoint:
        model = checkpoint.path
    sizes, told = Sizes(length=12, calibration=40, selection=3, verification=2), list[str]()
    first = written_texts(model, sizes, 1, 1, tmp_path, told.append)
    assert first.facts()["written_by_the_model"]
    assert "32 of 40 windows" in told[0]
    monkeypatch.delattr(texts_module, "generate_calibration")
    again = written_texts(model, sizes, 1, 1, tmp_path, told.append)
    assert first.key == again.key
    (tmp_path / "text" / "selection-3x12" / "windows.npy").write_bytes(b"x")
    with pytest.raises(CheckpointError, match=r"selection-3x12: is damaged"):
        written_texts(model, sizes, 1, 1, tmp_path, told.append)
