"""What differs between releases of transformers, 4.57 to the newest.

Differences are found by looking at signatures and fields of the release that is installed, never at
its number. The rest of this package has one name for each thing, the newest: a cache is ``cache``,
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
NEWEST_TRIED = "5.24"
_CACHE_NAMES = ("cache", "past_key_values")  # the newest first
_DEPRECATED = _CACHE_NAMES[1:]
# Arguments of forward in the releases that were tried; what is not used here is told when given.
_ARGUMENTS = {
    *("self", "input_ids", *_CACHE_NAMES, "cache_position", "attention_mask", "token_type_ids"),
    *("position_ids", "head_mask", "inputs_embeds", "encoder_hidden_states"),
    *("encoder_attention_mask", "labels", "use_cache", "output_attentions", "logits_to_keep"),
    *("output_hidden_states", "return_dict", "kwargs"),
}
# What generate calls, which is overridden here, and the first arguments that are looked at.
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
    """Which of the names is the cache's: a known one, else the one that is annotated as a Cache."""
    known = [name for name in _CACHE_NAMES if name in annotations]
    return next(
        iter(known or [name for name, kind in annotations.items() if "Cache" in str(kind)]),
        _CACHE_NAMES[0],
    )


@cache
def cache_argument() -> str:
    """What ``forward`` of a language model calls the cache."""
    parameters = _signature(transformers.GPT2LMHeadModel.forward).parameters
    return _name_of_cache({name: each.annotation for name, each in parameters.items()})


@cache
def _cache_field(kind: Any) -> str:
    return _name_of_cache({field.name: field.type for field in dataclasses.fields(kind)})


def output(kind: Any, cache: Any, **fields: Any) -> Any:
    """An output of transformers' class ``kind`` with the ``cache``, under the name that it has
    there."""
    return kind(**fields, **{_cache_field(kind): cache})


def bind(function: Any, model: Any, args: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments of transformers' method ``function`` by name, the cache's ``cache``.

    Raises TypeError, as a call does. A name that transformers has deprecated is understood with
    its FutureWarning.
    """
    signature = _signature(function)
    bound = signature.bind(model, *args, **_renamed(function, kwargs)).arguments
    for name, parameter in signature.parameters.items():
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            bound |= bound.pop(name, {})
    bound.pop(next(iter(signature.parameters)))
    return from_theirs(bound)


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


def from_theirs(given: dict[str, Any]) -> dict[str, Any]:
    """Arguments by the names of this package."""
    name = cache_argument()
    return {"cache" if key == name else key: value for key, value in given.items()}


def to_theirs(given: dict[str, Any]) -> dict[str, Any]:
    """Arguments of ``from_theirs`` by transformers' names."""
    name = cache_argument()
    return {name if key == "cache" else key: value for key, value in given.items()}


def why_unknown(names: list[str]) -> str:
    """Why a call with the arguments ``names``, which are not served here, is transformers'."""
    new = [name for name in names if name not in _ARGUMENTS]
    takes = _signature(transformers.GPT2LMHeadModel.forward).parameters
    reason = f"{', '.join(names)}: transformers alone knows how"
    if any(name in takes for name in new):
        reason += f" ({', '.join(new)}: new in transformers {RELEASE}; tried up to {NEWEST_TRIED})"
    return reason


@cache
def _knows_torchscript() -> bool:
    """Whether configs have the field, as until 4.57; in others it is a user's own."""
    return hasattr(transformers.GPT2Config(), "torchscript")


def usual_return_dict(config: Any) -> bool:
    """Whether outputs are objects where a call does not say."""
    usual = getattr(config, "return_dict", True)
    return bool(usual and not (_knows_torchscript() and config.torchscript))


def wants_usual_cache(made: Any, settings: Any) -> bool:
    """Whether a text of ``generate`` has the cache that grows, and stays where it is. ``made``:
    what transformers has prepared, that cache, or nothing where ``forward`` makes it
    (5.0)."""
    if settings.cache_implementation == "offloaded":
        return False
    return type(made) is transformers.DynamicCache or (made is None and bool(settings.use_cache))


def pad_token(settings: Any) -> int:
    """What ``generate`` puts behind texts that have ended. ``settings``: its GenerationConfig."""
    prepared = getattr(settings, "_pad_token_tensor", None)
    return int(settings.pad_token_id if prepared is None else prepared)


def register_outputs(model: Any) -> None:
    """For releases that look up what a model can record, attentions for example, as noted when it
    was made: by its class's name (5.0 to 5.22), or by the model itself. Elsewhere nothing."""
    registry = getattr(modeling_utils, "_CAN_RECORD_REGISTRY", None)
    if registry is not None and hasattr(model, "_can_record_outputs"):
        # A dict would keep the model for ever.
        key = str(type(model)) if type(registry) is dict else model
        registry[key] = model._can_record_outputs


def changes_of_generate() -> list[str]:
    """Which of the methods that ``generate`` is accelerated by are not as they were tried."""
    found = []
    for name, expected in _OVERRIDDEN.items():
        method = getattr(GenerationMixin, name, None)
        if method is None:
            found.append(f"`{name}` is gone")
        elif tuple(_signature(method).parameters)[: len(expected)] != expected:
            found.append(f"`{name}` takes other arguments")
    return found


@cache
def warn_of_changes() -> None:
    """Warn, once a process, where ``generate`` of the transformers that is installed does not call
    what is overridden here."""
    if found := changes_of_generate():
        warnings.warn(
            f"gpt2fast leaves parts of generate() to transformers {RELEASE}, which is newer than "
            f"any that was tried (up to {NEWEST_TRIED}): {'; '.join(found)}. Results are right, "
            "and slower. A newer gpt2fast may know this release.",
            stacklevel=4,
        )
