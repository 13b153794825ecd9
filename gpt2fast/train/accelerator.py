"""The process's ``accelerate.Accelerator``, or why there is none."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

from gpt2fast.errors import MissingDependencyError, OptionError
from gpt2fast.train.run_options import LoopOptions

if TYPE_CHECKING:
    from accelerate import Accelerator


def make_accelerator(options: LoopOptions) -> Accelerator:
    """The process's accelerator. Raises MissingDependencyError, or OptionError for a precision that
    cannot be had here."""
    # Before the first step, not where the last one has been taken and the plot is due.
    missing = [name for name in ("accelerate", "tqdm", "matplotlib") if find_spec(name) is None]
    if missing:
        raise MissingDependencyError(
            f"training needs {', '.join(missing)}: pip install 'gpt2fast[torch]'"
        )
    from accelerate import Accelerator, PartialState

    # On a CPU accelerate would quietly compute in fp32.
    if options.precision == "fp16" and PartialState().device.type == "cpu":
        raise OptionError("--precision fp16 needs a GPU; use fp32 or bf16 on a CPU")
    precision = "no" if options.precision == "fp32" else options.precision
    try:
        return Accelerator(
            mixed_precision=precision, gradient_accumulation_steps=options.grad_accum
        )
    except ValueError as error:
        raise OptionError(f"--precision {options.precision} cannot be had here: {error}") from None
