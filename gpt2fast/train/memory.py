"""Room in memory: a model that cannot fit is refused, and running out is named as the cause."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from gpt2fast.errors import OptionError
from gpt2fast.train.disk import human_size

_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")
_ADVICE = "lower --batch-size, --context or the model's shape"


def check_memory(num_parameters: int, on_cpu: bool) -> None:
    """Raise OptionError if this machine's memory cannot hold the model: on a CPU weights, gradients
    and two moments in fp32; with an accelerator the weights alone, which are made here."""
    needed = num_parameters * 4 * (4 if on_cpu else 1)
    try:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # not every system tells
        return
    if 0 < memory < needed:
        raise OptionError(
            f"training {num_parameters:,} parameters needs {human_size(needed)} of memory, this "
            f"machine has {human_size(memory)}; give a smaller model"
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
