"""A run whose numbers are no longer finite has failed; it must not replace what was good."""

from __future__ import annotations

import math
from pathlib import Path

from gpt2fast.errors import OptionError
from gpt2fast.train.checkpointing import CHECKPOINTS, latest_checkpoint
from gpt2fast.train.run_options import LoopOptions

# exp() of it is still a float64, so perplexity and JSON stay numbers. Chance is log(vocab_size).
_LARGEST_LOSS = 700.0


def is_diverged(loss: float) -> bool:
    """Whether ``loss`` (nats/token) is not finite or beyond what has a perplexity."""
    return not (math.isfinite(loss) and loss <= _LARGEST_LOSS)


def diverged(options: LoopOptions, what: str, step: int) -> OptionError:
    """The error for a run whose ``what`` is not finite after ``step`` steps."""
    clip = f"--clip (now {options.clip:g})" if options.clip else "a --clip above 0"
    latest = latest_checkpoint(Path(options.out) / CHECKPOINTS)
    kept = f"the last good checkpoint is {latest}" if latest else "no checkpoint was written"
    again = ", in another --out" if latest else ""
    return OptionError(
        f"the {what} is not finite at step {step}: training has diverged. Train again with a lower "
        f"--lr (now {options.lr:g}) or {clip}{again}; {kept}"
    )
