"""The GPU that a name stands for."""

from __future__ import annotations

import os

import torch

from gpt2fast.errors import OptionError, UnsupportedError


def is_interpreted() -> bool:
    """Whether kernels run in Triton's interpreter, on the CPU."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def gpu(name: str) -> torch.device:
    """The device "cuda" or "cuda:<index>". Raises OptionError where there is no such GPU."""
    if is_interpreted():
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise OptionError(
            f"device = {name!r} cannot be had: PyTorch {torch.__version__} finds no NVIDIA GPU; "
            "use 'cpu', or install a driver and a torch built for CUDA"
        )
    try:
        device = torch.device(name)
    except RuntimeError:
        raise OptionError(f"device = {name!r} is not known; use 'cuda' or 'cuda:<index>'") from None
    count = torch.cuda.device_count()
    index = torch.cuda.current_device() if device.index is None else device.index
    if index >= count:
        raise OptionError(f"device = {name!r} does not exist; this machine has {count} GPUs")
    return torch.device("cuda", index)


def multiprocessors(device: torch.device) -> int:
    """How many the GPU has."""
    if device.type != "cuda":
        return 132  # an H200's, for the interpreter
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


def check_float8(device: torch.device) -> None:
    """Raises UnsupportedError for a GPU without 8-bit floats."""
    if device.type != "cuda":
        return
    capability = torch.cuda.get_device_capability(device)
    if capability < (8, 9):
        raise UnsupportedError(
            "quantization = 'fp8' needs a GPU of compute capability 8.9 or later, this one has "
            f"{'.'.join(map(str, capability))}; use 'int8'"
        )
