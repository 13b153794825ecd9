"""Text that a user names: files, directories and globs, read alike by every command."""

from __future__ import annotations

import glob
import hashlib
import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from gpt2fast.errors import OptionError

TEXT_SUFFIXES = (".txt", ".md", ".rst", ".py")  # of the files that a directory stands for

Paths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


@dataclass(frozen=True)
class TextFile:
    """A file with something in it. ``name`` is its path as it was given, or relative to the
    directory that was; ``text`` is what is in it, line ends as they are."""

    name: str
    text: str


def read_text_files(paths: Paths) -> tuple[TextFile, ...]:
    """The files that ``paths`` lead to, each once, in the order of their names: files, directories
    (recursively, those with TEXT_SUFFIXES) and globs. Empty files are left out; a warning names
    those that were given as such.

    Raises OptionError naming a path that leads to no file, a file that cannot be read or is not
    UTF-8, and paths that lead to empty files alone.
    """
    found: dict[Path, TextFile] = {}
    empty: list[str] = []
    given = listed(paths)
    for path in given:
        for name, file in _files(path):
            place = file.resolve()
            if place not in found:
                found[place] = TextFile(name, decode(read_bytes(file), file))
                if not found[place].text and str(file) == path:
                    empty.append(path)
    texts = [file for file in found.values() if file.text]
    if not texts:
        one = len(found) == 1
        raise OptionError(
            f"{', '.join(given)}: {'the file is' if one else 'all files there are'} empty; "
            "give text"
        )
    for path in empty:
        warnings.warn(f"{path} is empty and left out", stacklevel=2)
    return tuple(sorted(texts, key=lambda file: file.name))


def listed(paths: Paths) -> list[str]:
    """``paths``, one or several, as strings."""
    several = [paths] if isinstance(paths, str | os.PathLike) else paths
    return [os.fspath(path) for path in several]


def digest(files: Sequence[TextFile]) -> str:
    """SHA-256 of the bytes of ``files`` one after the other; of one file, that of the file."""
    found = hashlib.sha256()
    for file in files:
        found.update(file.text.encode())
    return found.hexdigest()


def read_bytes(file: str | os.PathLike[str]) -> bytes:
    """The whole file. Raises OptionError naming it."""
    try:
        return Path(file).expanduser().read_bytes()
    except OSError as error:
        raise OptionError(f"{file} cannot be read: {error.strerror}") from None


def decode(data: bytes, file: str | os.PathLike[str]) -> str:
    """``data`` of ``file`` as text. Raises OptionError naming the first byte that is not."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise OptionError(
            f"{file} cannot be read: it is not UTF-8 (byte 0x{data[error.start]:02x} at "
            f"{error.start}); convert it, or leave it out"
        ) from None


def _files(path: str) -> Iterator[tuple[str, Path]]:
    """Name and place of each file that ``path`` leads to. Raises OptionError where none is."""
    pattern = os.path.expanduser(path)
    try:
        exists = Path(pattern).exists()
    except OSError as error:  # longer than a name can be, or in a directory that cannot be entered
        raise OptionError(f"{path[:80]} cannot be read: {error.strerror}") from None
    roots = [pattern] if exists else sorted(glob.glob(pattern, recursive=True))
    count = 0
    for root in map(Path, roots):
        for file in _below(root) if root.is_dir() else [root]:
            count += 1
            yield file.relative_to(root).as_posix() if root.is_dir() else file.as_posix(), file
    if not count:
        raise OptionError(
            f"{path}: no text files there; give files, a directory with "
            f"{', '.join(TEXT_SUFFIXES)} files, or a glob in quotes"
        )


def _below(root: Path) -> list[Path]:
    return sorted(f for f in root.rglob("*") if f.is_file() and f.suffix in TEXT_SUFFIXES)
