"""One call of ``forward``: on the backend, or the reason why it has to run in torch."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gpt2fast.errors import CacheExhaustedError, CheckpointError, MissingDependencyError
from gpt2fast.hf.backend.backend import Backend, FloatArray, UnavailableBackend
from gpt2fast.hf.backend.fork_safe_lock import ForkSafeLock
from gpt2fast.hf.backend.last_run import record_run
from gpt2fast.hf.backend.options import runner_device
from gpt2fast.hf.backend.paged_cache import NativeCache
from gpt2fast.hf.backend.unpad import Unpadding, unpad
from gpt2fast.hf.compat import cache_argument, unsupported_reason
from gpt2fast.hf.dispatch.fallback import FallbackToTorch, forced_reason, padding_is_checked
from gpt2fast.hf.dispatch.forward_inputs import ForwardInputs, parse_inputs
from gpt2fast.hf.dispatch.hooks import hook_fallback_reason
from gpt2fast.hf.dispatch.padding import has_padding
from gpt2fast.hf.dispatch.tracing import active_dispatch_mode
from gpt2fast.hf.weights.fingerprint import WeightFingerprint
from gpt2fast.hf.weights.structure import attention_fallback_reason
from gpt2fast.runners import BLOCK_SIZE

_SUPPORTED = {
    *("input_ids", "cache", "attention_mask", "position_ids", "use_cache"),
    *("cache_position", "return_dict", "labels", "logits_to_keep", "num_items_in_batch"),
    # For stopping criteria of generate; forward ignores them.
    *("tokenizer", "assistant_tokenizer"),
}
_PACKING_LOCK = ForkSafeLock()  # only one thread packs a network's weights


@torch.compiler.disable  # type: ignore[untyped-decorator]
def run_forward(
    model: Any, network: Any, head: Any, arguments: dict[str, Any]
) -> tuple[Tensor, NativeCache | None]:
    """Run a call of ``model.forward`` on the backend.

    Args:
        model: the called model.
        network: the ``GPT2Model`` that it is or contains.
        head: its language-model head; None to get hidden states.
        arguments: those of the call, by the names of ``compat``.

    Returns logits or hidden states (*lead, columns, V or C), and the cache, None without
    ``use_cache``. Raises FallbackToTorch with the reason why the call has to run in torch."""
    backend = backend_or_reason(model, network, head, arguments, needs_grad=torch.is_grad_enabled())
    if isinstance(backend, str):
        raise FallbackToTorch(backend)
    use_cache, past = arguments.get("use_cache"), arguments.get("cache")
    if use_cache is None:
        use_cache = getattr(model.config, "use_cache", True)
    inputs = parse_inputs(arguments)
    batch, new = inputs.ids.shape
    cache, results = None, []
    keeps_keys = use_cache or past is not None
    for rows in [slice(None)] if keeps_keys else _sub_batches(backend, batch, new):
        cache = _cache_for(backend, past)
        results.append(_run_rows(cache, inputs, rows, logits=head is not None))
    values = np.concatenate(results) if len(results) > 1 else results[0]
    if inputs.columns is not None:
        values = values[:, inputs.columns]
    record_run(network, backend.run_record)
    output = torch.from_numpy(values).to(model.device, model.dtype)
    return output.reshape(*inputs.lead, *values.shape[1:]), cache if use_cache else None


def _sub_batches(backend: Backend, batch: int, new: int) -> list[slice]:
    """Rows of a batch, split so that each part fits into the cache, which is not kept."""
    size = max(backend.pool.num_free // (-(-new // BLOCK_SIZE) + 1), 1)
    return [slice(first, first + size) for first in range(0, batch, size)]


def _run_rows(
    cache: NativeCache, inputs: ForwardInputs, rows: slice, *, logits: bool
) -> FloatArray:
    backend, ids = cache.backend, inputs.ids[rows]
    if not cache.handles:
        cache.add_sequences(len(ids))
    if len(cache.handles) != len(ids):
        raise FallbackToTorch(f"the cache holds {len(cache.handles)} sequences, not {len(ids)}")
    mask, positions = (
        None if each is None else each[rows] for each in (inputs.mask, inputs.positions)
    )
    unpadding = unpad(ids.shape, mask, positions, cache.starts, cache.lengths, cache.past_length)
    if isinstance(unpadding, str):
        raise FallbackToTorch(unpadding)
    _check_tokens(backend, ids, unpadding, cache)
    try:
        return cache.run(ids, unpadding, inputs.last, logits=logits)
    except CacheExhaustedError:
        tokens = backend.runner.num_blocks * BLOCK_SIZE
        raise FallbackToTorch(f"the runner's cache is full, with {tokens} tokens") from None


def _cache_for(backend: Backend, past: Any) -> NativeCache:
    if past is None:
        return NativeCache(backend)
    if isinstance(past, NativeCache):
        if past.in_torch:
            raise FallbackToTorch("the text has gone on in transformers")
        return past
    raise FallbackToTorch(f"{cache_argument()} is a {type(past).__name__} that transformers fills")


def _check_tokens(
    backend: Backend, ids: NDArray[Any], unpadding: Unpadding, cache: NativeCache
) -> None:
    """Raise FallbackToTorch for invalid ids and lengths, so that torch raises its usual error."""
    if bool((ids < 0).any()) or int(ids.max(initial=0)) >= backend.config.vocab_size:
        raise FallbackToTorch("token ids are outside of the vocabulary")
    if int((cache.lengths + unpadding.counts).max(initial=0)) > backend.config.n_positions:
        raise FallbackToTorch(f"there are more than {backend.config.n_positions} tokens")


def backend_or_reason(
    model: Any, network: Any, head: Any, arguments: dict[str, Any], *, needs_grad: bool
) -> Backend | str:
    """The backend of ``network``, or why it cannot serve a call with ``arguments``."""
    if (reason := forced_reason()) is not None:
        return reason
    if (reason := _call_fallback_reason(model, network, arguments, needs_grad)) is not None:
        return reason
    cache = arguments.get("cache")
    if isinstance(cache, NativeCache) and cache.past_length:
        # Hooks and weights were checked when the text began; checking at each token costs too much.
        current = network.__dict__.get("_gpt2fast_backend")
        return cache.backend if cache.backend is current else "the cache is another runner's"
    return hook_fallback_reason(network, head) or _current_backend(network, head)


def _call_fallback_reason(
    model: Any, network: Any, arguments: dict[str, Any], needs_grad: bool
) -> str | None:
    own = network.__dict__
    is_inner = model is network and own.get("_gpt2fast_has_head")
    if is_inner and not padding_is_checked() and has_padding(arguments):
        return "a forward of your own may look at padding, where the runner has zeros"
    cls: Any = type(network)
    if model is not network and (not _dispatches(cls.forward) or cls._gpt2fast_overridden):
        return (
            "the network inside has a forward of its own, or was put there later (then call "
            "gpt2fast.accelerate again)"
        )
    if "_gpt2fast_options" not in own:
        return "gpt2fast.restore was called; gpt2fast.accelerate brings the runner back"
    unsupported = [
        name
        for name, value in arguments.items()
        if name not in _SUPPORTED and value is not None and value is not False
    ]
    config = model.config
    checks = {
        "model.training is set; call model.eval()": model.training,
        "gradients are wanted; use torch.no_grad() or torch.inference_mode()": needs_grad,
        unsupported_reason(unsupported): bool(unsupported),
        "autocast is on": torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda"),
        "the config asks for attentions or hidden states": (
            config.output_attentions or config.output_hidden_states
        ),
        "the model is in float64, and the runner computes in float32": (
            model.dtype == torch.float64
        ),
        f"the model is on {model.device}, where there is no runner": (
            runner_device(network, network._gpt2fast_options).type not in ("cpu", "cuda")
        ),
    }
    reason = next((text for text, holds in checks.items() if holds), None)
    return reason or active_dispatch_mode() or attention_fallback_reason(config)


def mark_dispatching(forward: Any) -> Any:
    """Mark ``forward``, a method of one of our classes, as one that calls ``run_forward``."""
    forward._gpt2fast_dispatches = True
    return forward


def _dispatches(forward: Any) -> bool:
    return getattr(forward, "_gpt2fast_dispatches", False)


def _current_backend(network: Any, head: Any) -> Backend | str:
    """The backend with the current weights, packed if they have changed, or why there is none."""
    own = network.__dict__
    with _PACKING_LOCK.rlock:
        current: Backend | UnavailableBackend | None = own.get("_gpt2fast_backend")
        # An optimizer may have written to any weight; fused ones leave its version as it was.
        ran_with_grad = own.get("_gpt2fast_ran_with_grad")
        if (
            current is None
            or not current.fingerprint.matches(head)
            or (ran_with_grad and not current.fingerprint.checksums_match())
        ):
            current = _make_backend(network, head, checksums=ran_with_grad is not None)
            own["_gpt2fast_backend"] = current
        # Only now, when all checks are done: an interrupt before this line repeats them. Another
        # object means that another thread has run with gradients meanwhile.
        if own.get("_gpt2fast_ran_with_grad") is ran_with_grad:
            own.pop("_gpt2fast_ran_with_grad", None)
        return current.reason if isinstance(current, UnavailableBackend) else current


def _make_backend(network: Any, head: Any, *, checksums: bool) -> Backend | UnavailableBackend:
    # A model that has run in torch is likely to do so again, with training in between.
    offload = not network.__dict__.get("_gpt2fast_warned")
    try:
        options = network._gpt2fast_options
        return Backend(network, head, options, offload=offload, checksums=checksums)
    except (CheckpointError, MissingDependencyError) as error:
        reason = f"the runner cannot take this model: {error}"
        return UnavailableBackend(reason, WeightFingerprint(network, head, checksums=checksums))
