"""Text for the larger model of the quality study: what it is trained on, and what it never sees.

    python benchmarks/quality/study_text.py DATA OUT

``DATA`` has WikiText-2 (``wikitext-2/valid.txt``, ``wikitext-2/test.txt``) and
``tinyshakespeare.txt``. Writes ``OUT/train`` (documents of the validation split, of Shakespeare, of
Python's own documentation and standard library, and of installed packages), ``OUT/calibration``
(those of it that are like what is held out: all but the packages) and ``OUT/held-out`` (the test
split, whole, and files of the standard library that are in no other file).
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from gpt2fast.train.corpus import Document, python_documents

SOURCE_BYTES = 3_000_000  # of Python's own; the rest of it is held out
PACKAGES = ("matplotlib", "numpy", "sympy", "torch", "transformers")
PACKAGE_BYTES = 60_000_000
PIECE = 20_000  # characters of a document of prose
HELD_OUT_CHARACTERS = 1_000_000  # of the source that is not trained on


def main(data: Path, out: Path) -> None:
    """Write the folders, which must not exist yet."""
    train, calibration, held_out = (out / name for name in ("train", "calibration", "held-out"))
    for folder in (train, calibration, held_out):
        folder.mkdir(parents=True)
    own, unseen = divide(list(python_documents()), SOURCE_BYTES)
    packages, _ = divide(list(package_documents()), PACKAGE_BYTES)
    alike = [*prose(data), *own]
    write(alike, calibration)
    write([*alike, *packages], train)
    text = "\n".join(document.text for document in unseen)[:HELD_OUT_CHARACTERS]
    (held_out / "python.txt").write_text(text, encoding="utf-8")
    test = data / "wikitext-2" / "test.txt"
    (held_out / "wikitext-2-test.txt").write_text(test.read_text(encoding="utf-8"), "utf-8")


def write(documents: list[Document], folder: Path) -> None:
    """A file for each."""
    for document in documents:
        name = document.name.replace("/", "-").removesuffix(".txt")
        (folder / f"{name}.txt").write_text(document.text, encoding="utf-8")


def prose(data: Path) -> Iterator[Document]:
    """The validation split and Shakespeare, in pieces."""
    for file in (data / "wikitext-2" / "valid.txt", data / "tinyshakespeare.txt"):
        text = file.read_text(encoding="utf-8")
        for number, begin in enumerate(range(0, len(text), PIECE)):
            yield Document(f"{file.stem}-{number:04d}", text[begin : begin + PIECE])


def package_documents() -> Iterator[Document]:
    """The Python source of ``PACKAGES`` as they are installed, without tests."""
    for package in PACKAGES:
        spec = find_spec(package)
        if spec is None or spec.origin is None:
            sys.exit(f"study_text: {package} is not installed, and its source is part of the text")
        root = Path(spec.origin).parent
        for file in sorted(root.rglob("*.py")):
            name = f"{package}/{file.relative_to(root).as_posix()}"
            if "/tests/" not in name and "/test/" not in name:
                yield Document(name, file.read_text(encoding="utf-8", errors="ignore"))


def divide(documents: list[Document], size: int) -> tuple[list[Document], list[Document]]:
    """Documents of ``size`` bytes in all, drawn by the hash of their names, and the others."""
    chosen: list[Document] = []
    others: list[Document] = []
    for document in sorted(documents, key=lambda d: hashlib.sha256(d.name.encode()).digest()):
        size -= len(document.text.encode())
        (chosen if size >= 0 else others).append(document)
    return chosen, others


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
