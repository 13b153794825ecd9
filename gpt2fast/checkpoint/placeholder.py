"""Small text files that stand where weights should be, after a download that went wrong."""

from __future__ import annotations

from pathlib import Path

from gpt2fast.errors import CheckpointError

_LFS = b"version https://git-lfs"
_HEAD_BYTES = 256


def refuse_placeholder(path: Path) -> None:
    """Raises CheckpointError if ``path`` is a git-lfs pointer or a web page, or cannot be read."""
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
    if head.startswith(_LFS):
        raise CheckpointError(
            f"{path}: is a git-lfs pointer, not the weights; run `git lfs pull` in its repository"
        )
    start = head.lstrip().lower()
    if start.startswith((b"<!doctype", b"<html", b"<?xml")):
        raise CheckpointError(
            f"{path}: is a web page, not the weights; download the file itself, not the page "
            "that shows it"
        )
