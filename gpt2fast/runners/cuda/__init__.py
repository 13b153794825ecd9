"""The CUDA runner: a step as Triton kernels over a paged cache."""

from __future__ import annotations

from gpt2fast.errors import MissingDependencyError

try:
    import torch  # noqa: F401
    import triton  # noqa: F401
except ImportError:
    raise MissingDependencyError(
        "device 'cuda' needs PyTorch and Triton: pip install 'gpt2fast[gpu]'"
    ) from None

from gpt2fast.runners.cuda.runner import CudaRunner

__all__ = ["CudaRunner"]
