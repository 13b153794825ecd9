"""Room in memory: a model that cannot fit is refused, running out is named as the cause, and what
a step has freed is kept for the next one."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from gpt2fast.errors import OptionError
from gpt2fast.files.disk import human_size
from gpt2fast.host import physical_memory

_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")
_ADVICE = "lower --batch-size, --context or the model's shape"
# Of glibc's mallopt: how much free memory is given back, and how many blocks are mapped alone.
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
_USUAL = {_TRIM_THRESHOLD: 128 * 1024, _MMAP_MAX: 65536}
_KEEPING = {_TRIM_THRESHOLD: -1, _MMAP_MAX: 0}


def check_memory(num_parameters: int, on_cpu: bool) -> None:
    """Raise OptionError if the memory that this process may use cannot hold the model: on a CPU
    weights, gradients and two moments in fp32; with an accelerator the weights alone, which are
    made here."""
    needed, memory = num_parameters * 4 * (4 if on_cpu else 1), physical_memory()
    if memory < needed:
        raise OptionError(
            f"training {num_parameters:,} parameters needs {human_size(needed)} of memory, this "
            f"machine or container has {human_size(memory)}; give a smaller model"
        )


@contextmanager
def clear_memory_errors() -> Iterator[None]:
    """Turn running out of memory into an OptionError."""
    try:
        yield
    except MemoryError:
        raise OptionError(f"not enough memory for this training; {_ADVICE}") from None
    except RuntimeError as error:
        if not any(sign in str(error).lower() for sign in _OUT_OF_MEMORY):
            raise
        raise OptionError(f"not enough memory for this training; {_ADVICE}") from error


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """While it lasts, memory that is freed stays with the process; where the C library is not
    glibc, nothing changes.

    The logits of a large vocabulary are hundreds of megabytes. glibc gives such a block back when
    it is freed, and the next step waits for the kernel to clear every page of a new one: with
    50,257 tokens a step on a CPU took 1.5 times as long.
    """
    libc = _glibc()
    if libc is None:
        yield
        return
    for parameter, value in _KEEPING.items():
        libc.mallopt(parameter, value)
    try:
        yield
    finally:
        for parameter, value in _USUAL.items():
            libc.mallopt(parameter, value)
        libc.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    return libc if hasattr(libc, "gnu_get_libc_version") else None
