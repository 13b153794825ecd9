"""Text to train on: documents from files or from the Python installation, split by file."""

from __future__ import annotations

import hashlib
import sysconfig
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from gpt2fast.errors import OptionError
from gpt2fast.text_files import read_text_files

# Not prose and not code to learn from: tests, other people's packages, character tables, data that
# a build generated.
_SKIPPED_FOLDERS = frozenset(
    {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__", "encodings"}
)
_SKIPPED_FILES = frozenset({"pydoc_data/topics.py", "html/entities.py", "stringprep.py"})


@dataclass(frozen=True)
class Document:
    """One text; ``name`` is stable between machines and decides on which side it falls."""

    name: str
    text: str


@dataclass(frozen=True)
class Corpus:
    """Documents to train on and documents held out, each in the order of their names."""

    train: tuple[Document, ...]
    held_out: tuple[Document, ...]

    def summary(self) -> dict[str, object]:
        """Documents, bytes and SHA-256 of each side, for the record."""
        return {"train": _summary(self.train), "held_out": _summary(self.held_out)}


def _summary(documents: Iterable[Document]) -> dict[str, object]:
    digest, size, count = hashlib.sha256(), 0, 0
    for document in documents:
        data = document.text.encode()
        digest.update(document.name.encode() + b"\0" + data + b"\0")
        size, count = size + len(data), count + 1
    return {"documents": count, "bytes": size, "sha256": digest.hexdigest()}


def load_corpus(
    paths: Sequence[str], preset: str | None, held_out: float, held_out_paths: Sequence[str] = ()
) -> Corpus:
    """Read the documents and split them. Raises OptionError if a side would be empty."""
    documents = python_documents() if preset == "python" else read_documents(paths)
    if held_out_paths:
        return Corpus(documents, read_documents(held_out_paths))
    return split(documents, held_out)


def split(documents: Sequence[Document], fraction: float) -> Corpus:
    """Hold out the documents whose name hashes below ``fraction``: the same files in every run and
    on every machine, whatever else is in the corpus. At least one, unless ``fraction`` is 0."""
    if fraction == 0:
        return Corpus(tuple(documents), ())
    ranked = {document.name: _unit_hash(document.name) for document in documents}
    held = {name for name, rank in ranked.items() if rank < fraction}
    held = held or {min(ranked, key=ranked.__getitem__)}
    if len(held) == len(ranked):
        raise OptionError(
            f"the text is split by file, and {len(ranked)} file(s) leave nothing to train on: give "
            "more files, --held-out-data FILE, or --held-out 0"
        )
    return Corpus(
        tuple(d for d in documents if d.name not in held),
        tuple(d for d in documents if d.name in held),
    )


def _unit_hash(name: str) -> float:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:6], "big") / 2**48


def read_documents(paths: Sequence[str]) -> tuple[Document, ...]:
    """Documents of files, directories (recursively, files with TEXT_SUFFIXES) and globs.

    Raises OptionError as ``read_text_files`` does.
    """
    files = read_text_files(paths)
    return tuple(Document(file.name, _with_plain_line_ends(file.text)) for file in files)


def _with_plain_line_ends(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


def python_documents() -> tuple[Document, ...]:
    """Text that every Python installation carries: the language reference's topics that ``help()``
    shows, and the source of the standard library without tests, tables and generated files."""
    from pydoc_data.topics import topics

    texts = {f"topics/{name}.txt": text for name, text in topics.items()}
    library = Path(sysconfig.get_paths()["stdlib"])
    for file in sorted(library.rglob("*.py")):
        name = file.relative_to(library).as_posix()
        folders = set(name.split("/")[:-1])
        generated = file.name.startswith("_sysconfigdata") or name.startswith("config-")
        if folders & _SKIPPED_FOLDERS or name in _SKIPPED_FILES or generated:
            continue
        texts[name] = file.read_text(encoding="utf-8", errors="ignore")
    return tuple(Document(name, text) for name, text in sorted(texts.items()) if text.strip())
