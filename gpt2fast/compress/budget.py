"""What a compressed model must keep to, and whether a measured one does."""

from __future__ import annotations

import re
from dataclasses import dataclass

from gpt2fast.errors import GPT2FastError, OptionError

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}
_UNITS |= {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


class BudgetError(GPT2FastError):
    """No recipe that was tried keeps to the budget. The message has what came nearest."""


@dataclass(frozen=True)
class Measured:
    """What is known of one candidate, beside the original in float32 on the same text.

    ``loss`` is the rise of perplexity in percent with the bounds of its paired 95 % interval.
    """

    loss: float
    loss_low: float
    loss_high: float
    speedup: float  # decoding at batch 1, over the original in float32 on the same engine
    num_bytes: int  # of the weights as stored


@dataclass(frozen=True)
class Budget:
    """None where nothing is asked. All that is asked must hold."""

    max_loss: float | None = None  # percent of perplexity
    min_speedup: float | None = None
    max_bytes: int | None = None

    def __post_init__(self) -> None:
        if self.max_loss is not None and not 0 < self.max_loss < 1e6:
            raise OptionError(f"--max-loss {self.max_loss:g} % is not valid; give more than 0 %")
        if self.min_speedup is not None and not 0 < self.min_speedup < 1e6:
            raise OptionError(f"--min-speedup {self.min_speedup:g} is not valid; give more than 0")
        if self.max_bytes is not None and self.max_bytes < 1:
            raise OptionError("--max-size must be at least a byte")

    def holds_loss(self, measured: Measured, share: float = 1.0) -> bool:
        """Whether the whole interval lies within ``share`` of the loss that is allowed."""
        return self.max_loss is None or measured.loss_high <= share * self.max_loss

    def holds_size(self, measured: Measured) -> bool:
        """Whether it is fast and small enough."""
        fast = self.min_speedup is None or measured.speedup >= self.min_speedup
        return fast and (self.max_bytes is None or measured.num_bytes <= self.max_bytes)

    def holds(self, measured: Measured) -> bool:
        """Whether all that is asked holds."""
        return self.holds_loss(measured) and self.holds_size(measured)

    def misses(self, measured: Measured) -> list[str]:
        """What does not hold, in words."""
        found = []
        if self.max_loss is not None and not self.holds_loss(measured):
            found.append(
                f"perplexity {measured.loss:+.2f} % (95 % interval to {measured.loss_high:+.2f} %) "
                f"where {self.max_loss:g} % is allowed"
            )
        if self.min_speedup is not None and measured.speedup < self.min_speedup:
            found.append(f"{measured.speedup:.2f}x as fast where {self.min_speedup:g}x is asked")
        if self.max_bytes is not None and measured.num_bytes > self.max_bytes:
            found.append(
                f"{measured.num_bytes / 1e6:.1f} MB where {self.max_bytes / 1e6:g} MB are allowed"
            )
        return found

    def to_json(self) -> dict[str, float | int | None]:
        """For the log and the report."""
        return {
            "max_loss_percent": self.max_loss,
            "min_speedup": self.min_speedup,
            "max_bytes": self.max_bytes,
        }


def parse_percent(text: str) -> float:
    """``"1%"`` or ``"1 %"`` -> 1.0. Raises OptionError for anything else.

    The sign is asked for: 0.01 could mean either.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?|\.\d+)\s*%\s*", text)
    if match is None:
        raise OptionError(f"--max-loss {text!r} is not a percentage; write it as 1% or 0.5%")
    return float(match[1])


def parse_size(text: str) -> int:
    """``"90MB"`` -> 90,000,000 bytes. Raises OptionError for anything else."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmg]?i?b?)\s*", text, re.IGNORECASE)
    if match is None or match[2].upper() not in _UNITS:
        raise OptionError(f"--max-size {text!r} is not a size; write it as 90MB, 1.5GB or 64MiB")
    return int(float(match[1]) * _UNITS[match[2].upper()])
