"""``pytorch_model.bin``: read with torch, restricted to tensors, so that no code can run."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpt2fast.checkpoint.tensor import TensorInfo
from gpt2fast.errors import CheckpointError, MissingDependencyError


class TorchFile:
    """Implements ``WeightFile`` on a pickled state dict.

    Raises MissingDependencyError without torch, and CheckpointError when the file is damaged or
    holds anything but tensors.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.metadata: dict[str, str] = {}  # the format has none
        self._state = _load(path)
        self.tensors = {name: _describe(path, name, t) for name, t in self._state.items()}

    def load(self, name: str) -> tuple[NDArray[np.uint8], Callable[[], None]]:
        import torch

        tensor = self._state[name].detach().contiguous()
        data: NDArray[np.uint8] = tensor.reshape(-1).view(torch.uint8).numpy()
        data.flags.writeable = False
        return data, _keep_pages

    def close(self) -> None:
        self._state = {}
        self.tensors = {}


def _keep_pages() -> None:
    """torch owns the map and has no way to drop a part of it."""


def _load(path: Path) -> dict[str, Any]:
    try:
        import torch
    except ImportError as error:
        raise MissingDependencyError(
            f"{path}: reading a .bin checkpoint needs torch; install it with "
            "pip install 'gpt2fast[torch]', or convert the checkpoint to model.safetensors"
        ) from error
    try:
        with path.open("rb") as file:
            zipped = file.read(4) == b"PK\x03\x04"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickle protocols; the error below names them
            # Files from before torch 1.6 are not zip archives and cannot be mapped.
            state = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except MemoryError:
        raise
    except Exception as error:  # unpickling damaged bytes raises nearly anything
        # torch's own text advises weights_only=False, which would run what the file says.
        raise CheckpointError(
            f"{path}: is damaged, holds more than tensors, or was pickled with another protocol "
            "than torch's own; download it again, or convert it to model.safetensors where you "
            "trust its source"
        ) from error
    if not isinstance(state, dict):
        raise CheckpointError(f"{path}: holds a {type(state).__name__}, not a state dict")
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            raise CheckpointError(
                f"{path}: entry {name!r} is a {type(value).__name__}, not a tensor; save "
                "model.state_dict() alone"
            )
        if value.layout != torch.strided or value.device.type != "cpu":
            raise CheckpointError(f"{path}: entry {name!r} is not an ordinary dense tensor")
    return state


def _describe(path: Path, name: str, tensor: Any) -> TensorInfo:
    kind = str(tensor.dtype).removeprefix("torch.")
    floats = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "float64": "F64"}
    return TensorInfo(name, floats.get(kind, kind), tuple(tensor.shape), path)
