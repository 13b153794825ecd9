"""The identity of a checkpoint's weights."""

from __future__ import annotations

import hashlib

from gpt2fast.checkpoint.checkpoint import Checkpoint

_READ_BYTES = 2**22  # at a time


def weights_digest(checkpoint: Checkpoint) -> str:
    """SHA-256, in hexadecimal, of the files that the weights are read from, one after the other in
    the order of their names. Files beside them that are not read do not count."""
    digest = hashlib.sha256()
    for file in sorted(checkpoint.files):
        with file.open("rb") as stream:
            while block := stream.read(_READ_BYTES):
                digest.update(block)
    return digest.hexdigest()
