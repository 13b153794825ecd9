"""Text for the larger model of the quality study: what it is trained on, and what it never sees.

    python benchmarks/quality/study_text.py DATA OUT

``DATA`` has WikiText-2 (``wikitext-2/valid.txt``, ``wikitext-2/test.txt``) and
``tinyshakespeare.txt``. Writes ``OUT/train`` (documents of the validation split, of Shakespeare,
and of Python's own documentation and standard library) and ``OUT/held-out`` (the test split, whole,
and files of the standard library that are in no other file).
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

from gpt2fast.train.corpus import python_documents

PROSE_COPIES = 3  # of prose for one of source
SOURCE_BYTES = 3_000_000  # of Python's own, of which there is far more than prose
PIECE = 20_000  # characters of a document
HELD_OUT_CHARACTERS = 1_000_000  # of the source that is not trained on


def main(data: Path, out: Path) -> None:
    """Write both folders, which must not exist yet."""
    train, held_out = out / "train", out / "held-out"
    train.mkdir(parents=True)
    held_out.mkdir()
    prose = [data / "wikitext-2" / "valid.txt", data / "tinyshakespeare.txt"]
    for file in prose:
        text = file.read_text(encoding="utf-8")
        for copy in range(PROSE_COPIES):
            # Cut at other places in each copy, so that documents begin differently.
            start = copy * PIECE // PROSE_COPIES
            for number, begin in enumerate(range(start, len(text), PIECE)):
                piece = text[begin : begin + PIECE]
                (train / f"{file.stem}-{copy}-{number:04d}.txt").write_text(piece, encoding="utf-8")
    room, unseen = SOURCE_BYTES, []
    ranked = sorted(python_documents(), key=lambda d: hashlib.sha256(d.name.encode()).digest())
    for document in ranked:
        room -= len(document.text.encode())
        if room < 0:
            unseen.append(document.text)
            continue
        name = document.name.replace("/", "-")
        (train / f"python-{name}.txt").write_text(document.text, encoding="utf-8")
    text = "\n".join(unseen)[:HELD_OUT_CHARACTERS]
    (held_out / "python.txt").write_text(text, encoding="utf-8")
    test = data / "wikitext-2" / "test.txt"
    (held_out / "wikitext-2-test.txt").write_text(test.read_text(encoding="utf-8"), "utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
