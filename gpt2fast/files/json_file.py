"""Small JSON files: read with one clear error for a damaged one, written whole."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

from gpt2fast.errors import CheckpointError
from gpt2fast.files.atomic import staged_file

# The vocabulary of the largest GPT-2 takes 1 MB; beyond this a file is not what its name says.
MAX_JSON_BYTES = 64 * 2**20


def read_json_object(path: Path) -> dict[str, Any]:
    """The JSON object in ``path``. Raises CheckpointError when it is absent or is not one."""
    value = read_json(path)
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: expected a JSON object, got {type(value).__name__}")
    return value


def read_json(path: Path) -> Any:
    """The JSON value in ``path``. Raises CheckpointError when it is absent or damaged."""
    content = read_small_file(path)
    try:
        return json.loads(content.decode())
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: is not valid JSON: {error}") from error


def read_small_file(path: Path) -> bytes:
    """The bytes of a file of JSON. Raises CheckpointError when it is absent or far too large."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for ever
            raise CheckpointError(f"{path}: is not a regular file; put the JSON itself there")
        if status.st_size > MAX_JSON_BYTES:
            raise CheckpointError(f"{path}: larger than {MAX_JSON_BYTES} bytes; is it JSON at all?")
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error


def write_json(path: Path, value: object) -> None:
    """Write ``value`` onto the disk so that the file is never seen half written. Raises
    OptionError, naming it, where that cannot be."""
    text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    with staged_file(path) as stage, stage.open("wb") as file:
        file.write(text.encode())
        file.flush()
        os.fsync(file.fileno())
