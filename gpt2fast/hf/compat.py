"""What differs between releases of transformers, 4.57 to the newest.

Differences are detected from signatures and fields of the installed release, never from its version
number. The rest of this package uses one name for each argument, the newest: a cache is ``cache``,
whatever ``forward``, ``generate`` and their outputs call it.
"""

from __future__ import annotations

import dataclasses
import inspect
import warnings
from functools import cache, lru_cache
from typing import Any

import transformers
from transformers import modeling_utils
from transformers.generation.utils import GenerationMixin

RELEASE: str = transformers.__version__
NEWEST_TESTED = "5.24"
_CACHE_NAMES = ("cache", "past_key_values")  # the newest first
_DEPRECATED = _CACHE_NAMES[1:]
# Arguments of forward in the tested releases; unsupported_reason names any other as new.
_KNOWN_ARGUMENTS = {
    *("self", "input_ids", *_CACHE_NAMES, "cache_position", "attention_mask", "token_type_ids"),
    *("position_ids", "head_mask", "inputs_embeds", "encoder_hidden_states"),
    *("encoder_attention_mask", "labels", "use_cache", "output_attentions", "logits_to_keep"),
    *("output_hidden_states", "return_dict", "kwargs"),
}
# The methods called by generate that our classes override, and the arguments that they read.
_OVERRIDDEN = {
    "_prepare_cache_for_generation": ("self", "generation_config", "model_kwargs"),
    "_sample": (
        *("self", "input_ids", "logits_processor", "stopping_criteria", "generation_config"),
        *("synced_gpus", "streamer"),
    ),
    "_beam_search": ("self", "input_ids", "logits_processor"),
}


@lru_cache(maxsize=64)
def _signature(function: Any) -> inspect.Signature:
    return inspect.signature(function)


def _name_of_cache(annotations: dict[str, Any]) -> str:
    """The name of the cache argument: a known one, or the one annotated as a Cache."""
    known = [name for name in _CACHE_NAMES if name in annotations]
    return next(
        iter(known or [name for name, kind in annotations.items() if "Cache" in str(kind)]),
        _CACHE_NAMES[0],
    )


@cache
def cache_argument() -> str:
    """The cache argument's name in ``GPT2LMHeadModel.forward``."""
    parameters = _signature(transformers.GPT2LMHeadModel.forward).parameters
    return _name_of_cache({name: each.annotation for name, each in parameters.items()})


@cache
def _cache_field(kind: Any) -> str:
    return _name_of_cache({field.name: field.type for field in dataclasses.fields(kind)})


def make_output(kind: Any, cache: Any, **fields: Any) -> Any:
    """An instance of ``kind``, one of transformers' output classes, with ``cache`` in its cache
    field."""
    return kind(**fields, **{_cache_field(kind): cache})


def bind_arguments(function: Any, model: Any, args: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a call of transformers' method ``function`` by name; the cache is ``cache``.

    Raises TypeError for arguments that do not fit, as a call does. A deprecated name is accepted
    with a FutureWarning, as by transformers."""
    signature = _signature(function)
    bound = signature.bind(model, *args, **_renamed(function, kwargs)).arguments
    for name, parameter in signature.parameters.items():
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            bound |= bound.pop(name, {})
    bound.pop(next(iter(signature.parameters)))
    return canonical_arguments(bound)


def _renamed(function: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
    takes = _signature(function).parameters
    name = cache_argument()
    for old in _DEPRECATED:
        if old in kwargs and old not in takes and name in takes:
            kwargs = dict(kwargs)
            value = kwargs.pop(old)
            note = f" `{name}` is given, too, and `{old}` is ignored." if name in kwargs else ""
            kwargs.setdefault(name, value)
            warnings.warn(
                f"`{old}` is deprecated in transformers {RELEASE}: use `{name}`.{note}",
                FutureWarning,
                stacklevel=5,
            )
    return kwargs


def canonical_arguments(given: dict[str, Any]) -> dict[str, Any]:
    """``given`` arguments of transformers by the names of this package."""
    name = cache_argument()
    return {"cache" if key == name else key: value for key, value in given.items()}


def transformers_arguments(given: dict[str, Any]) -> dict[str, Any]:
    """The inverse of ``canonical_arguments``."""
    name = cache_argument()
    return {name if key == "cache" else key: value for key, value in given.items()}


def unsupported_reason(names: list[str]) -> str:
    """Why a call with the unsupported arguments ``names`` runs in transformers."""
    new = [name for name in names if name not in _KNOWN_ARGUMENTS]
    takes = _signature(transformers.GPT2LMHeadModel.forward).parameters
    reason = f"{', '.join(names)}: not supported by the runner"
    if any(name in takes for name in new):
        reason += (
            f" ({', '.join(new)}: new in transformers {RELEASE}; tested up to {NEWEST_TESTED})"
        )
    return reason


@cache
def _knows_torchscript() -> bool:
    """Whether ``torchscript`` is a field of configs, as until 4.57; later it is a user's own
    field."""
    return hasattr(transformers.GPT2Config(), "torchscript")


def default_return_dict(config: Any) -> bool:
    """The value of ``return_dict`` for a call that does not give it."""
    default = getattr(config, "return_dict", True)
    return bool(default and not (_knows_torchscript() and config.torchscript))


def uses_default_cache(made: Any, config: Any) -> bool:
    """Whether ``generate`` uses a plain DynamicCache, which a NativeCache may replace.

    ``made`` is what transformers has prepared: that cache, or None if ``forward`` is to make it
    (5.0). ``config`` is the GenerationConfig."""
    if config.cache_implementation == "offloaded":
        return False
    return type(made) is transformers.DynamicCache or (made is None and bool(config.use_cache))


def pad_token_id(config: Any) -> int:
    """The token that ``generate`` appends to sequences that have ended. ``config`` is the
    GenerationConfig."""
    prepared = getattr(config, "_pad_token_tensor", None)
    return int(config.pad_token_id if prepared is None else prepared)


def register_outputs(model: Any) -> None:
    """Register which outputs (attentions, hidden states) ``model`` can record, after its class was
    changed. Releases of 5 register them at construction, by class name (5.0 to 5.22) or by model;
    4.57 does not."""
    registry = getattr(modeling_utils, "_CAN_RECORD_REGISTRY", None)
    if registry is not None and hasattr(model, "_can_record_outputs"):
        # By class name it is a dict; by model one with weak keys.
        key = str(type(model)) if type(registry) is dict else model
        registry[key] = model._can_record_outputs


def generate_changes() -> list[str]:
    """Which of the overridden methods of ``generate`` differ from those of the tested releases."""
    found = []
    for name, expected in _OVERRIDDEN.items():
        method = getattr(GenerationMixin, name, None)
        if method is None:
            found.append(f"`{name}` is gone")
        elif tuple(_signature(method).parameters)[: len(expected)] != expected:
            found.append(f"`{name}` takes other arguments")
    return found


@cache
def warn_of_generate_changes() -> None:
    """Warn, once per process, if the installed transformers has other methods behind ``generate``
    than those that are overridden."""
    if found := generate_changes():
        warnings.warn(
            f"gpt2fast leaves parts of generate() to transformers {RELEASE}, which is newer than "
            f"any that was tested (up to {NEWEST_TESTED}): {'; '.join(found)}. Results are right, "
            "and slower. A newer gpt2fast may know this release.",
            stacklevel=4,
        )
