"""The class that each of transformers' classes becomes when accelerated, and back."""

from __future__ import annotations

import copyreg
import inspect
import os
from collections.abc import Callable
from functools import wraps
from typing import Any, ClassVar, TypeVar

import torch
import transformers

from gpt2fast.hf.backend.last_run import LAST_RUN, LastRun
from gpt2fast.hf.backend.options import Options, check_options, options_for
from gpt2fast.hf.compat import register_outputs, warn_of_generate_changes
from gpt2fast.hf.dispatch.dispatch import mark_dispatching
from gpt2fast.hf.dispatch.tracing import is_traced
from gpt2fast.hf.weights.layer_shapes import allow_per_layer_config, set_layer_shapes
from gpt2fast.hf.weights.module_checkpoint import model_config

CLASSES: dict[type, type] = {}  # transformers' class -> ours
Class = TypeVar("Class", bound=type)
_NOT_COPIED = ("_gpt2fast_backend", LAST_RUN)  # attributes that copies and pickles do not have
_ATTRIBUTES = (
    *_NOT_COPIED,
    *("_gpt2fast_options", "_gpt2fast_warned"),
    *("_gpt2fast_ran_with_grad", "_gpt2fast_has_head"),
)
_EARLIER_NAMES = {  # in pickles until 2026-11
    "_native_options": "_gpt2fast_options",
    "_native_told": "_gpt2fast_warned",
    "_native_trained": "_gpt2fast_ran_with_grad",
    "_native_inside": "_gpt2fast_has_head",
}
_ACCELERATED = "_gpt2fast_accelerated"  # attribute of a user's class: its accelerated subclass


class Accelerated:
    """Mixin of our classes, in front of transformers' class. The backend is made when it is first
    needed."""

    # Those of our classes among the bases whose super().forward is not transformers', because the
    # class of somebody else stands between.
    _gpt2fast_overridden: ClassVar[frozenset[type]] = frozenset()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Find out which of our classes are followed by another ``forward`` than transformers'."""
        super().__init_subclass__(**kwargs)
        cls._gpt2fast_overridden = frozenset(
            ours
            for theirs, ours in CLASSES.items()
            if issubclass(cls, ours) and _class_of_next_forward(cls, ours) is not theirs
        )

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str] | None,
        *model_args: Any,
        quantization: str | None = None,
        device: str | torch.device | None = None,
        num_threads: int | None = None,
        strict: bool = False,
        **kwargs: Any,
    ) -> Any:
        """As transformers' ``from_pretrained``, with the options of ``gpt2fast.accelerate``.
        ``device_map`` places the weights, ``device`` the runner.

        Raises OptionError for an unknown option, and for a ``quantization`` other than that of a
        quantized directory.
        """
        asked = (quantization, device, num_threads, strict)
        check_options(*asked)  # before anything is loaded
        loaded: Any = super().from_pretrained(  # type: ignore[misc]
            pretrained_model_name_or_path, *model_args, **kwargs
        )
        model = loaded[0] if isinstance(loaded, tuple) else loaded  # with output_loading_info
        if asked != (None, None, None, False):
            attach(model, options_for(model, *asked))
        return loaded

    @property
    def last_run(self) -> LastRun | None:
        """Where the last call of ``forward`` or ``generate`` ran; None before the first."""
        run: LastRun | None = network_of(self).__dict__.get(LAST_RUN)
        return run

    def __init__(self, *inputs: Any, **kwargs: Any) -> None:
        config = kwargs.get("config", next(iter(inputs), None))
        if not isinstance(config, transformers.GPT2Config):
            super().__init__(*inputs, **kwargs)  # raises transformers' error
            return
        with allow_per_layer_config(config):
            super().__init__(*inputs, **kwargs)
        if "per_layer_config" in config.to_dict():
            set_layer_shapes(network_of(self), model_config(self))
        attach(self)

    @classmethod
    def is_custom_code(cls) -> bool:
        """For transformers 5: whether the class may initialize weights in its own way. Ours do
        not."""
        return cls not in CLASSES.values() and bool(super().is_custom_code())  # type: ignore[misc]

    def __getstate__(self) -> dict[str, Any]:
        """For copies and pickles, which make a backend of their own."""
        return _without_backend(self.__dict__)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Of this release or of an earlier one."""
        renamed = {_EARLIER_NAMES.get(name, name): value for name, value in state.items()}
        super().__setstate__(renamed)  # type: ignore[misc]


class AcceleratedSubclass:
    """First base of the class that a user's subclass of a transformers class becomes."""

    _gpt2fast_user_class: type

    def __init_subclass__(cls, **_: Any) -> None:
        """Do nothing: ``__init_subclass__`` of the user's class is not meant for this one."""

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Pickle by the user's class, because this one cannot be found by its name."""
        reduced: Any = super().__reduce_ex__(protocol)
        if reduced[0] is not copyreg.__newobj__:  # type: ignore[attr-defined]
            return reduced
        # The state has the backend in it if the user's class defines __getstate__.
        return (
            new_instance,
            (self._gpt2fast_user_class,),
            _without_backend(reduced[2]),
            *reduced[3:],
        )


def _without_backend(state: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in state.items() if name not in _NOT_COPIED}


def new_instance(cls: type) -> Any:
    """For ``pickle``: an empty instance of the accelerated subclass of a user's class."""
    made: Any = accelerated_class(cls)
    return made.__new__(made)


def accelerates(theirs: Any) -> Callable[[Class], Class]:
    """Decorator of our class for ``theirs``, a class of transformers."""

    def register(ours: Any) -> Any:
        CLASSES[theirs] = ours
        ours.forward = _dispatching_forward(ours, theirs)
        return ours

    return register


def _dispatching_forward(ours: Any, theirs: Any) -> Any:
    """The ``forward`` of ``ours``; but the next class's if torch traces the call, or if the next
    class is not ``theirs`` and overrides it."""
    own = ours.forward

    @wraps(own)
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        if is_traced() or ours in self._gpt2fast_overridden:
            return super(ours, self).forward(*args, **kwargs)
        return own(self, *args, **kwargs)

    # generate() inspects the signature for the arguments that a model takes.
    forward.__signature__ = inspect.signature(theirs.forward)  # type: ignore[attr-defined]
    return mark_dispatching(forward)


def _class_of_next_forward(cls: type, ours: type) -> type:
    """The class whose ``forward`` is ``super().forward`` of ``ours`` in instances of ``cls``."""
    behind = cls.__mro__[cls.__mro__.index(ours) + 1 :]
    return next(each for each in behind if "forward" in vars(each))


def accelerated_class(cls: Any) -> Any:
    """The accelerated counterpart of ``cls``, one of transformers' classes or a subclass of one.

    In that of a subclass ours stands behind it and before transformers', so that its ``super()``
    calls reach ours."""
    if issubclass(cls, Accelerated):
        return cls
    if cls in CLASSES:
        return CLASSES[cls]
    if _ACCELERATED not in vars(cls):
        ours = next(CLASSES[each] for each in cls.__mro__ if each in CLASSES)
        names = {name: getattr(cls, name) for name in ("__module__", "__qualname__", "__doc__")}
        names["_gpt2fast_user_class"] = cls
        made = type(cls)(cls.__name__, (AcceleratedSubclass, cls, ours), names)
        setattr(cls, _ACCELERATED, made)
    return vars(cls)[_ACCELERATED]


def network_of(model: Any) -> Any:
    """The ``GPT2Model`` that ``model`` is or contains."""
    return model if isinstance(model, transformers.GPT2Model) else model.transformer


def attach(model: Any, options: Options | None = None) -> None:
    """Change ``model`` and the network inside to their accelerated classes, with ``options``; a
    backend that it has is dropped."""
    network = network_of(model)
    for each in (model, network):
        cls: Any = type(each)
        each.__class__ = accelerated_class(cls)
        register_outputs(each)
    warn_of_generate_changes()
    network._gpt2fast_options = options or Options()
    network._gpt2fast_has_head = model is not network
    for name in _NOT_COPIED:
        network.__dict__.pop(name, None)


def detach(model: Any) -> None:
    """Undo ``attach``. An instance of a user's subclass of our classes keeps its class, and runs in
    torch."""
    network = network_of(model)
    originals = {ours: theirs for theirs, ours in CLASSES.items()}
    classes = [type(each) for each in (model, network)]
    restored = [vars(cls).get("_gpt2fast_user_class") or originals.get(cls, cls) for cls in classes]
    if not issubclass(restored[0], Accelerated):
        model.__class__, network.__class__ = restored
    for name in _ATTRIBUTES:
        network.__dict__.pop(name, None)
