"""Every error gpt2fast raises on purpose. Each message says what was wrong and what to do."""

from __future__ import annotations

import reprlib


class GPT2FastError(Exception):
    """Base of all errors of this package; the command line prints it and exits with 2."""


class CheckpointError(GPT2FastError, ValueError):
    """A checkpoint's files are missing, damaged or inconsistent. The message names the file."""


class ConfigError(CheckpointError):
    """A field of ``config.json`` has a value that no GPT-2 can have; the message names it."""


class UnsupportedError(CheckpointError):
    """The checkpoint asks for something gpt2fast does not implement. The message names it."""


class OptionError(GPT2FastError, ValueError):
    """An option (of ``LLM``, ``SamplingParams``, a command) is unknown or out of range."""


class RequestError(GPT2FastError, ValueError):
    """A prompt cannot be run: empty, a token id out of range, or the like."""


class ContextOverflowError(RequestError):
    """Prompt and ``max_tokens`` together exceed the context and ``overflow`` is ``"error"``."""


class CacheExhaustedError(GPT2FastError, MemoryError):
    """The KV cache has no block left. The scheduler answers by preempting; a request that could
    not fit even alone is given this error."""


class NotAcceleratedError(GPT2FastError, RuntimeError):
    """A call of a transformers model cannot run on gpt2fast's runner, and ``strict`` was asked for.
    The message says why."""


class MissingDependencyError(GPT2FastError, ImportError):
    """An optional dependency is needed. The message names the extra that installs it."""


def show(value: object) -> str:
    """``value`` for a message: its representation, shortened where it is long."""
    try:
        return reprlib.repr(value)
    except ValueError:  # Python does not write out integers of thousands of digits
        return "an integer of thousands of digits"


def counted(number: int, noun: str) -> str:
    """``number`` with ``noun``: "1 token", "2 tokens"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
