"""One call of ``forward``: on the runner, or the reason why it has to run in torch."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gpt2fast.errors import (
    CacheExhaustedError,
    CheckpointError,
    MissingDependencyError,
    NotAcceleratedError,
)
from gpt2fast.hf.backend.backend import Floats, Native, Refusal
from gpt2fast.hf.backend.fork_safe_lock import Lock
from gpt2fast.hf.backend.last_run import LastRun, note
from gpt2fast.hf.backend.options import device_of
from gpt2fast.hf.backend.paged_cache import NativeCache
from gpt2fast.hf.backend.unpad import Plan, make_plan
from gpt2fast.hf.compat import cache_argument, to_theirs, why_unknown
from gpt2fast.hf.dispatch.padding import has_padding, reason_of_loss
from gpt2fast.hf.dispatch.tracing import watcher
from gpt2fast.hf.weights.fingerprint import Stamp, obstacle
from gpt2fast.hf.weights.structure import own_attention
from gpt2fast.runners import BLOCK_SIZE

_UNDERSTOOD = {
    *("input_ids", "cache", "attention_mask", "position_ids", "use_cache"),
    *("cache_position", "return_dict", "labels", "logits_to_keep", "num_items_in_batch"),
    *("tokenizer", "assistant_tokenizer"),  # of generate's criteria; forward ignores them
}
_INTEGERS = (torch.int64, torch.int32)
_REASON: ContextVar[str | None] = ContextVar("reason", default=None)
_GUARDED: ContextVar[bool] = ContextVar("guarded", default=False)
_PACKING = Lock()  # of several threads that need a runner one makes it


class Fallback(Exception):  # noqa: N818
    """Why a call runs in torch."""


@torch.compiler.disable  # type: ignore[untyped-decorator]
def run(
    model: Any, network: Any, head: Any, given: dict[str, Any]
) -> tuple[Tensor, NativeCache | None]:
    """Logits, or without a ``head`` hidden states, of a call with the arguments ``given``, and its
    cache. Raises Fallback with the reason where it has to run in torch."""
    native = why_not(model, network, head, given, needs_grad=torch.is_grad_enabled())
    if isinstance(native, str):
        raise Fallback(native)
    wants, past = given.get("use_cache"), given.get("cache")
    keeps = getattr(model.config, "use_cache", True) if wants is None else wants
    asked = _read(given)
    batch, new = asked.ids.shape
    cache, found = None, []
    for rows in [slice(None)] if keeps or past is not None else _parts(native, batch, new):
        cache = _cache_of(native, past)
        found.append(_run_rows(cache, asked, rows, logits=head is not None))
    values = np.concatenate(found) if len(found) > 1 else found[0]
    if asked.columns is not None:
        values = values[:, asked.columns]
    note(network, native.run_here)
    results = torch.from_numpy(values).to(model.device, model.dtype)
    return results.reshape(*asked.lead, *values.shape[1:]), cache if keeps else None


@dataclass(frozen=True)
class _Asked:
    """Ids (B, S), the mask (B, T) and positions (B, S) if there are any, and the columns that are
    wanted: the ``last`` ones, of them those of ``columns`` if given. Results are (*lead, ...)."""

    ids: NDArray[np.int64]
    lead: tuple[int, ...]
    mask: NDArray[np.int64] | None
    positions: NDArray[np.int64] | None
    last: int
    columns: NDArray[np.int64] | None


def _read(given: dict[str, Any]) -> _Asked:
    given_ids = given.get("input_ids")
    if not torch.is_tensor(given_ids) or given_ids.numel() == 0:
        raise Fallback("there are no input_ids")
    if given_ids.dtype not in _INTEGERS or given_ids.ndim < 2:
        raise Fallback(f"input_ids of type {given_ids.dtype} and shape {tuple(given_ids.shape)}")
    ids = np.asarray(given_ids.cpu(), np.int64)
    lead, new = ids.shape[:-1], ids.shape[-1]  # of multiple choices there are two of them
    ids = ids.reshape(-1, new)
    mask, positions = (_two_dimensional(given.get(n)) for n in ("attention_mask", "position_ids"))
    if positions is not None and positions.shape not in (ids.shape, (1, new)):
        raise Fallback(f"position_ids are {positions.shape}, and input_ids {ids.shape}")
    if positions is not None:
        positions = np.broadcast_to(positions, ids.shape)
    last, columns = _wanted_columns(given.get("logits_to_keep", 0), new)
    if last < new and mask is not None and not mask[:, -last:].all():
        raise Fallback("the last tokens, whose logits are wanted, are padding")
    if (reason := reason_of_loss(given, shifted=True)) is not None:
        raise Fallback(reason)
    return _Asked(ids, lead, mask, positions, last, columns)


def _wanted_columns(keep: Any, new: int) -> tuple[int, NDArray[np.int64] | None]:
    """How many of ``new`` columns are wanted at the end, and which of those, if not all."""
    if type(keep) is int and keep >= 0:
        return min(keep, new) or new, None
    if torch.is_tensor(keep) and keep.ndim == 1 and keep.dtype in _INTEGERS:
        return new, np.asarray(keep.cpu(), np.int64)
    raise Fallback(f"logits_to_keep is a {type(keep).__name__} that transformers knows how to read")


def _parts(native: Native, batch: int, new: int) -> list[slice]:
    """Rows of a batch whose keys nobody asks for, as many at a time as the cache has room for."""
    size = max(native.pool.num_free // (-(-new // BLOCK_SIZE) + 1), 1)
    return [slice(first, first + size) for first in range(0, batch, size)]


def _run_rows(cache: NativeCache, asked: _Asked, rows: slice, *, logits: bool) -> Floats:
    native, ids = cache.native, asked.ids[rows]
    if not cache.handles:
        cache.open(len(ids))
    if len(cache.handles) != len(ids):
        raise Fallback(f"the cache holds {len(cache.handles)} sequences, not {len(ids)}")
    mask, positions = (
        None if each is None else each[rows] for each in (asked.mask, asked.positions)
    )
    plan = make_plan(ids.shape, mask, positions, cache.starts, cache.lengths, cache.past)
    if isinstance(plan, str):
        raise Fallback(plan)
    _check_tokens(native, ids, plan, cache)
    try:
        return cache.run(ids, plan, asked.last, logits=logits)
    except CacheExhaustedError:
        tokens = native.runner.num_blocks * BLOCK_SIZE
        raise Fallback(f"the runner's cache is full, with {tokens} tokens") from None


def why_not(
    model: Any, network: Any, head: Any, given: dict[str, Any], *, needs_grad: bool
) -> Native | str:
    """The runner of ``network``, or why it cannot serve a call with the arguments ``given``."""
    if (wanted := _REASON.get()) is not None:
        return wanted
    own = network.__dict__
    if model is network and own.get("_native_inside") and not _GUARDED.get() and has_padding(given):
        return "a forward of your own may look at padding, where the runner has zeros"
    kind: Any = type(network)
    if model is not network and (not _dispatches(kind.forward) or kind._gpt2fast_passed):
        return (
            "the network inside has a forward of its own, or was put there later (then call "
            "gpt2fast.accelerate again)"
        )
    if "_native_options" not in own:
        return "gpt2fast.restore was called; gpt2fast.accelerate brings the runner back"
    unknown = [
        name
        for name, value in given.items()
        if name not in _UNDERSTOOD and value is not None and value is not False
    ]
    config = model.config
    checks = {
        "model.training is set; call model.eval()": model.training,
        "gradients are wanted; use torch.no_grad() or torch.inference_mode()": needs_grad,
        why_unknown(unknown): bool(unknown),
        "autocast is on": torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda"),
        "the config asks for attentions or hidden states": (
            config.output_attentions or config.output_hidden_states
        ),
        "the model is in float64, and the runner computes in float32": (
            model.dtype == torch.float64
        ),
        f"the model is on {model.device}, where there is no runner": (
            device_of(network, network._native_options).type not in ("cpu", "cuda")
        ),
    }
    if (reason := next((text for text, holds in checks.items() if holds), None)) is not None:
        return reason
    if (reason := watcher() or own_attention(config)) is not None:
        return reason
    cache = given.get("cache")
    if isinstance(cache, NativeCache) and cache.past:
        # Hooks and weights were looked at when the text began: a look at each token costs too much.
        held = network.__dict__.get("_native")
        return cache.native if cache.native is held else "the cache is another runner's"
    return obstacle(network, head) or _native_of(network, head)


def mark_dispatching(forward: Any) -> Any:
    """``forward``, a method of one of our classes, marked as one that calls ``run``."""
    forward._gpt2fast_dispatches = True
    return forward


def _dispatches(forward: Any) -> bool:
    return getattr(forward, "_gpt2fast_dispatches", False)


def _native_of(network: Any, head: Any) -> Native | str:
    """The runner with the weights as they are now, or why there is none."""
    own = network.__dict__
    with _PACKING.rlock:
        held: Native | Refusal | None = own.get("_native")
        # Behind gradients an optimizer may have written anywhere, fused ones without a trace.
        trained = own.get("_native_trained")
        if held is None or not held.stamp.fits(head) or (trained and not held.stamp.same_sums()):
            own["_native"] = held = _make_native(network, head, trains=trained is not None)
        # Here, where all that was looked at: an interrupt may come in the middle of it.
        if own.get("_native_trained") is trained:
            own.pop("_native_trained", None)
        return held.reason if isinstance(held, Refusal) else held


def _make_native(network: Any, head: Any, *, trains: bool) -> Native | Refusal:
    # Who has run in torch is likely to do so again, and to train in between.
    releases = not network.__dict__.get("_native_told")
    try:
        options = network._native_options
        return Native(network, head, options, releases=releases, trains=trains)
    except (CheckpointError, MissingDependencyError) as error:
        reason = f"the runner cannot take this model: {error}"
        return Refusal(reason, Stamp(network, head, sums=trains))


def _two_dimensional(tensor: Tensor | None) -> NDArray[np.int64] | None:
    if tensor is None:
        return None
    if tensor.ndim > 3 or tensor.is_floating_point():
        raise Fallback(f"a mask of shape {tuple(tensor.shape)} and type {tensor.dtype}")
    found = np.asarray(tensor.cpu(), np.int64)
    return found.reshape(-1, found.shape[-1])


def _cache_of(native: Native, given: Any) -> NativeCache:
    if given is None:
        return NativeCache(native)
    if isinstance(given, NativeCache):
        if given.in_torch:
            raise Fallback("the text has gone on in transformers")
        return given
    raise Fallback(f"{cache_argument()} is a {type(given).__name__} that transformers fills")


@contextmanager
def left_to_torch(reason: str | None) -> Iterator[None]:
    """Calls of this thread run in torch meanwhile, if there is a ``reason``. Without one they may
    run on the runner: what they say of padding is not looked at."""
    tokens = _REASON.set(reason or _REASON.get()), _GUARDED.set(True)
    try:
        yield
    finally:
        _REASON.reset(tokens[0])
        _GUARDED.reset(tokens[1])


def _check_tokens(native: Native, ids: NDArray[Any], plan: Plan, cache: NativeCache) -> None:
    """What torch would stop at with an error of its own is left to torch."""
    if bool((ids < 0).any()) or int(ids.max(initial=0)) >= native.config.vocab_size:
        raise Fallback("token ids are outside of the vocabulary")
    if int((cache.lengths + plan.counts).max(initial=0)) > native.config.n_positions:
        raise Fallback(f"there are more than {native.config.n_positions} tokens")


def for_torch(network: Any, given: dict[str, Any]) -> dict[str, Any]:
    """The arguments for transformers' own forward, which goes on in the cache that is given."""
    cache = given.get("cache")
    if isinstance(cache, NativeCache) and not cache.in_torch:
        cache.move_to_torch(network)
    return to_theirs(given)


def tell(network: Any, reason: str) -> None:
    """Say once for each reason why a call runs in torch, or raise NotAcceleratedError where it must
    not."""
    options = network.__dict__.get("_native_options")
    if options is not None and options.strict:
        raise NotAcceleratedError(
            f"this call cannot run on gpt2fast's runner: {reason} (strict=True was asked for; "
            "without it the call runs in transformers)"
        ) from None
    note(network, LastRun("torch", reason))
    if torch.is_grad_enabled():
        network.__dict__["_native_trained"] = object()  # each time another one
    told: set[str] = network.__dict__.setdefault("_native_told", set())
    if reason not in told:
        told.add(reason)
        warnings.warn(f"gpt2fast leaves this call to transformers: {reason}", stacklevel=3)
