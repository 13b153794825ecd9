"""What of an artifact is compressed and what is not, tensor by tensor."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpt2fast.checkpoint import open_checkpoint
from gpt2fast.quantization import INTEGER_FORMATS

_INTEGERS = tuple(f"{name}-" for name in INTEGER_FORMATS)  # their labels name the group size too


@dataclass(frozen=True)
class Stored:
    """One tensor as it is stored."""

    name: str
    shape: tuple[int, ...]
    form: str  # "int4-g64", "F32", ...
    num_bytes: int

    @property
    def is_compressed(self) -> bool:
        """Whether it is integers."""
        return self.form.startswith(_INTEGERS)


def coverage(directory: Path) -> list[Stored]:
    """All tensors of the checkpoint in ``directory``, in the order of the forward pass."""
    found = []
    with open_checkpoint(directory) as checkpoint:
        for name in checkpoint.names:
            tensor = checkpoint.tensor(name)
            found.append(Stored(name, tensor.shape, tensor.dtype, tensor.data.nbytes))
    return found


def summary(tensors: list[Stored]) -> dict[str, Any]:
    """Bytes by format, and each tensor that was left uncompressed, for the report."""
    by_format: dict[str, int] = {}
    for tensor in tensors:
        by_format[tensor.form] = by_format.get(tensor.form, 0) + tensor.num_bytes
    left = [tensor for tensor in tensors if not tensor.is_compressed]
    return {
        "bytes_by_format": by_format,
        "compressed_bytes": sum(t.num_bytes for t in tensors if t.is_compressed),
        "uncompressed_bytes": sum(t.num_bytes for t in left),
        "uncompressed": [
            {"name": t.name, "shape": list(t.shape), "format": t.form, "bytes": t.num_bytes}
            for t in left
        ],
    }
