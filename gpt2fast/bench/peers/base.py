"""What every system of the benchmark looks like from outside, and what the adapters share."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from gpt2fast.errors import OptionError, UnsupportedError, show
from gpt2fast.files.atomic import clear_abandoned, scratch_directory
from gpt2fast.files.json_file import read_json_object

Clock = Callable[[], float]
Generated = tuple[list[list[int]], list[float]]


class Adapter(Protocol):
    """One system, used as somebody who knows it well would use it.

    The life of an adapter is ``convert`` (slow, cached, best in a process of its own, so that its
    memory is not counted as the system's), ``load``, then any number of ``generate`` and
    ``logits``, and ``close``. Formats are float32, float16, bfloat16, int8, int4 and int3; what a
    system calls them is its adapter's business.
    """

    FORMATS: ClassVar[tuple[str, ...]]

    def __init__(self, work: Path) -> None:
        """``work`` is the directory in which converted models are kept."""

    def versions(self) -> dict[str, str]:
        """Versions of the packages that decide about speed and converted files."""
        ...

    def convert(self, checkpoint: Path, fmt: str) -> Path:
        """The file or directory to load for ``fmt``, made from a Hugging Face directory.

        Made once, atomically, and found again by the checkpoint's identity, ``fmt`` and versions.
        """
        ...

    def load(
        self, artifact: Path, fmt: str, threads: int, context: int, batch: int, **options: str
    ) -> None:
        """Load with ``threads`` threads for ``batch`` sequences of at most ``context`` tokens each.

        Raises ``OptionError`` for options that the system does not have.
        """
        ...

    def generate(
        self, prompts: Sequence[Sequence[int]], new_tokens: int, clock: Clock
    ) -> Generated:
        """Exactly ``new_tokens`` greedy tokens for each of B prompts; the end token is ignored.

        The prompts have the same length. Returns the new tokens (B, new_tokens) and the values of
        ``clock`` when the tokens of step 0, 1, ... of all sequences were known to the caller.
        """
        ...

    def logits(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        """Teacher-forced logits (T, V) of ``tokens`` (T,): row t predicts token t + 1.

        Raises ``NotImplementedError`` where the system offers no way to them.
        """
        ...

    def weight_bytes(self) -> int | None:
        """Bytes of weights, as stored, that one decode step reads; None where unknown.

        Position and embedding tables, of which a step reads single rows, are left out; an embedding
        table that is the output head as well is counted once.
        """
        ...

    def kv_bytes_per_token(self) -> int | None:
        """Bytes of keys and values, all layers, that a step reads for each cached token."""
        ...

    def close(self) -> None:
        """Free the model."""
        ...


def installed(*packages: str) -> dict[str, str]:
    """Versions of those of ``packages`` (distribution names) that are installed."""
    return {package: found for package in packages if (found := _version(package)) is not None}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def refuse(system: str, options: dict[str, Any]) -> None:
    """Raise ``OptionError`` naming the first of ``options``, which ``system`` does not have."""
    for name, value in options.items():
        raise OptionError(f"{system} has no option {name} (given {show(value)}); leave it out")


def check_format(system: str, fmt: str, formats: Sequence[str]) -> None:
    """Raise ``OptionError`` unless ``fmt`` is one of ``formats``."""
    if fmt not in formats:
        raise OptionError(f"{system} has no format {show(fmt)}; choose from {', '.join(formats)}")


def refuse_layers(system: str, checkpoint: Path) -> None:
    """Raise ``UnsupportedError`` for a model whose layers differ in shape: ``system`` builds all of
    them alike."""
    config = checkpoint / "config.json"
    if read_json_object(config).get("per_layer_config"):
        raise UnsupportedError(
            f"{system} has no layers of different shapes ({config}: per_layer_config); measure it "
            "on the model before it was pruned, or prune to uniform shapes"
        )


def cached(
    work: Path,
    checkpoint: Path,
    name: str,
    versions: dict[str, str],
    make: Callable[[Path], None],
) -> Path:
    """The path under ``work`` of what ``make(path)`` writes, written once.

    ``name`` holds system and format, and a suffix where it is a file. The key is made of ``name``,
    ``versions`` and the names, sizes and times of the checkpoint's files.
    """
    files = sorted(f for f in checkpoint.iterdir() if f.is_file())
    stats = [(f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in files]
    identity = json.dumps([str(checkpoint.resolve()), stats, sorted(versions.items())])
    key = hashlib.sha256(identity.encode()).hexdigest()[:16]
    path = work / f"{checkpoint.resolve().name}-{key}-{name}"
    clear_abandoned(path)
    if not path.exists():
        with scratch_directory(path) as folder:
            made = folder / path.name
            make(made)
            # A directory cannot be renamed over another that was made meanwhile; that one will do.
            if not path.exists():
                os.replace(made, path)
    return path


def hugging_face_model(checkpoint: Path, dtype: str = "float32", attention: str = "eager") -> Any:
    """transformers' GPT-2 for inference, from local files."""
    torch, transformers = import_module("torch"), import_module("transformers")
    model = transformers.AutoModelForCausalLM.from_pretrained(
        checkpoint,
        dtype=getattr(torch, dtype),
        attn_implementation=attention,
        local_files_only=True,
    )
    return model.eval()
