"""What a user calls a model -> the directory that holds its files."""

from __future__ import annotations

import importlib.util
import os
import re
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from gpt2fast.checkpoint.weight_files import (
    INDEX_SUFFIX,
    SAFETENSORS,
    TORCH_BIN,
    read_weight_map,
)
from gpt2fast.errors import CheckpointError, MissingDependencyError, OptionError, show

DEMO = "demo"
_DEMO_DIRECTORY = Path(__file__).resolve().parents[1] / "assets" / "demo"

# "name" or "owner/name", in the characters that the hub allows.
_HUB_ID = re.compile(r"\w[\w.-]{0,95}(/\w[\w.-]{0,95})?", re.ASCII)

SMALL_FILES = [  # all but the weights
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
]


def resolve(name_or_path: str | os.PathLike[str], revision: str | None = None) -> Path:
    """The directory of a model: ``"demo"``, a local directory, or a hub id (downloaded, cached).

    A directory wins over a hub id of the same name, and over the bundled model where it is called
    "demo" and has a config.json; then a warning says so. Raises CheckpointError when nothing is
    found, and OptionError for what is neither a string nor a path.
    """
    name = _as_text(name_or_path)
    local = _bundled_or_own() if name_or_path == DEMO else Path(os.path.expanduser(name))
    if name and _test(Path.is_dir, local):
        if revision is not None:
            raise OptionError(f"revision = {revision!r} applies to hub ids; {name!r} is local")
        return local
    if _test(Path.is_file, local):
        raise CheckpointError(
            f"{name} is a file; give the directory that holds config.json and the weights: "
            f"{local.parent}"
        )
    if local == _DEMO_DIRECTORY:
        raise CheckpointError(f"{local}: the bundled demo model is missing; reinstall gpt2fast")
    if not isinstance(name_or_path, str) or not _HUB_ID.fullmatch(name) or ".." in name:
        raise CheckpointError(f"{name!r}: no such directory, and not a hub id (owner/name) either")
    return _download(name, revision)


def _bundled_or_own() -> Path:
    """The bundled model; a user's own of this name where there is one."""
    own = Path(DEMO)
    if not _test(Path.is_file, own / "config.json"):
        return _DEMO_DIRECTORY
    warnings.warn(
        f"{DEMO!r} is your directory {own.absolute()} here, not the model of this name that comes "
        "with gpt2fast; to run that one, start elsewhere or rename the directory",
        stacklevel=3,
    )
    return own


def _as_text(name_or_path: Any) -> str:
    if isinstance(name_or_path, (str, os.PathLike)):
        name = os.fspath(name_or_path)
        if isinstance(name, str):
            return name
    raise OptionError(
        f"model = {show(name_or_path)} is not allowed; give 'demo', a directory or a hub "
        "id, as a string or a path"
    )


def _test(question: Callable[[Path], bool], path: Path) -> bool:
    try:
        return question(path)
    except (OSError, ValueError):  # a name that no file can have: too long, or with a null byte
        return False


def _download(repository: str, revision: str | None) -> Path:
    """Fetch configuration, tokenizer and the preferred form of the weights, nothing else."""
    indexed = SAFETENSORS + INDEX_SUFFIX
    path = _fetch(repository, revision, [*SMALL_FILES, SAFETENSORS, indexed])
    if (path / SAFETENSORS).is_file():
        return path
    if not (path / indexed).is_file():
        _require_torch(repository)
        indexed = TORCH_BIN + INDEX_SUFFIX
        path = _fetch(repository, revision, [TORCH_BIN, indexed])
        if (path / TORCH_BIN).is_file():
            return path
    if (path / indexed).is_file():
        shards = sorted(set(read_weight_map(path / indexed).values()))
        path = _fetch(repository, revision, shards)
    return path


def _require_torch(repository: str) -> None:
    # Asked before the download: gigabytes that cannot be read afterwards help nobody.
    if importlib.util.find_spec("torch") is None:
        raise MissingDependencyError(
            f"{repository!r} has no safetensors weights; reading {TORCH_BIN} needs torch: "
            "pip install 'gpt2fast[torch]'"
        )


def _fetch(repository: str, revision: str | None, patterns: Sequence[str]) -> Path:
    from huggingface_hub import snapshot_download, utils

    errors: Any = utils  # has these classes in every version; their own module has moved
    where = repr(repository) + (f" at revision {revision!r}" if revision else "")
    try:
        return Path(snapshot_download(repository, revision=revision, allow_patterns=list(patterns)))
    except errors.GatedRepoError as error:
        raise CheckpointError(
            f"{where} on the Hugging Face hub asks for permission; accept its terms there and "
            "log in with `hf auth login`"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise CheckpointError(
            f"{where}: no such directory here and no such repository on the Hugging Face hub "
            "(a private one needs `hf auth login`)"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise CheckpointError(f"{where}: the repository has no such revision") from error
    except errors.LocalEntryNotFoundError as error:
        raise CheckpointError(
            f"{where}: no such directory here, not in the local cache, and the Hugging Face hub "
            "cannot be reached (or HF_HUB_OFFLINE is set)"
        ) from error
    except Exception as error:  # which library's network error depends on huggingface_hub's version
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise CheckpointError(f"{where}: the download failed: {reason}") from error
