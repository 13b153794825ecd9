"""Reading text and splitting it by file."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpt2fast.errors import OptionError
from gpt2fast.train.corpus import Document, load_corpus, python_documents, read_documents, split


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "sub").mkdir()
    for name in ("b.txt", "a.md", "sub/c.py"):
        (tmp_path / name).write_text(f"text of {name}", encoding="utf-8")
    (tmp_path / "empty.txt").touch()
    (tmp_path / "image.png").write_bytes(b"\x89PNG\xff")
    return tmp_path


def test_directories_files_and_globs(folder: Path) -> None:
    assert [d.name for d in read_documents([str(folder)])] == ["a.md", "b.txt", "sub/c.py"]
    file = str(folder / "b.txt")
    assert read_documents([file, str(folder / "*.txt")]) == (Document(file, "text of b.txt"),)
    assert len(read_documents([str(folder / "**" / "*.py")])) == 1


@pytest.mark.parametrize("missing", ["nothing.txt", "none-*.txt", "hollow"])
def test_paths_without_text_are_refused(folder: Path, missing: str) -> None:
    (folder / "hollow").mkdir()
    with pytest.raises(OptionError, match="no text files there"):
        read_documents([str(folder / missing)])


def test_bytes_that_are_not_utf8_are_refused(folder: Path) -> None:
    with pytest.raises(OptionError, match=r"image\.png cannot be read: it is not UTF-8"):
        read_documents([str(folder / "image.png")])


def test_split_depends_on_the_name_alone() -> None:
    documents = [Document(f"{i}.txt", "x") for i in range(2000)]
    whole, part = split(documents, 0.1), split(documents[::3], 0.1)
    assert 140 < len(whole.held_out) < 260
    assert set(part.held_out) == set(whole.held_out) & set(documents[::3])
    assert set(whole.train) | set(whole.held_out) == set(documents)
    assert not set(whole.train) & set(whole.held_out)


def test_small_corpora_still_hold_one_file_out() -> None:
    corpus = split([Document("a", "1"), Document("b", "2")], 0.001)
    assert (len(corpus.train), len(corpus.held_out)) == (1, 1)
    assert split([Document("a", "1")], 0.0).held_out == ()
    with pytest.raises(OptionError, match="--held-out-data"):
        split([Document("a", "1")], 0.1)


def test_held_out_files_of_ones_own(folder: Path) -> None:
    corpus = load_corpus([str(folder / "sub")], None, 0.5, [str(folder / "b.txt")])
    assert [d.text for d in corpus.held_out] == ["text of b.txt"]
    assert [d.name for d in corpus.train] == ["c.py"]


def test_python_corpus_is_documentation_and_source() -> None:
    documents = {d.name: d.text for d in python_documents()}
    assert "def dataclass(" in documents["dataclasses.py"]
    assert documents["topics/assert.txt"].startswith('The "assert" statement')
    assert "pydoc_data/topics.py" not in documents
    parts = {part for name in documents for part in name.split("/")}
    assert not parts & {"test", "tests", "idle_test", "site-packages", "encodings"}
    assert sum(map(len, documents.values())) > 5_000_000
