"""Falling back to transformers: the exception that carries the reason, and what is said about
it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch

from gpt2fast.errors import NotAcceleratedError
from gpt2fast.hf.backend.last_run import LastRun, record_run
from gpt2fast.hf.backend.paged_cache import NativeCache
from gpt2fast.hf.compat import transformers_arguments

_FORCED_REASON: ContextVar[str | None] = ContextVar("forced_reason", default=None)
_PADDING_CHECKED: ContextVar[bool] = ContextVar("padding_checked", default=False)


class FallbackToTorch(Exception):  # noqa: N818
    """A call must run in torch; the message is the reason."""


@contextmanager
def torch_if(reason: str | None) -> Iterator[None]:
    """Within it, calls of this thread run in torch if there is a ``reason``. Without one they may
    run on the backend, and ``padding_is_checked`` returns True: the caller has looked at it."""
    tokens = _FORCED_REASON.set(reason or _FORCED_REASON.get()), _PADDING_CHECKED.set(True)
    try:
        yield
    finally:
        _FORCED_REASON.reset(tokens[0])
        _PADDING_CHECKED.reset(tokens[1])


def forced_reason() -> str | None:
    """The reason of the innermost ``torch_if`` that has one."""
    return _FORCED_REASON.get()


def padding_is_checked() -> bool:
    """Whether one of our heads around the network has already checked for padding."""
    return _PADDING_CHECKED.get()


def arguments_for_torch(network: Any, arguments: dict[str, Any]) -> dict[str, Any]:
    """``arguments`` by transformers' names, with a cache that its own forward can append to."""
    cache = arguments.get("cache")
    if isinstance(cache, NativeCache) and not cache.in_torch:
        cache.move_to_torch(network)
    return transformers_arguments(arguments)


def warn_once(network: Any, reason: str) -> None:
    """Record that a call of ``network`` runs in torch, and warn, once for each reason.

    Raises NotAcceleratedError if the network's options are strict."""
    options = network.__dict__.get("_gpt2fast_options")
    if options is not None and options.strict:
        raise NotAcceleratedError(
            f"this call cannot run on gpt2fast's runner: {reason} (strict=True was asked for; "
            "without it the call runs in transformers)"
        ) from None
    record_run(network, LastRun("torch", reason))
    if torch.is_grad_enabled():
        # A new object each time, so that a later call is told from an earlier one.
        network.__dict__["_gpt2fast_ran_with_grad"] = object()
    warned: set[str] = network.__dict__.setdefault("_gpt2fast_warned", set())
    if reason not in warned:
        warned.add(reason)
        warnings.warn(f"gpt2fast leaves this call to transformers: {reason}", stacklevel=3)
