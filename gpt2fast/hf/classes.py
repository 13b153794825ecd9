"""Which of our classes stands for which of transformers', how a model changes to it, and back."""

from __future__ import annotations

import copyreg
import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import transformers

from gpt2fast.hf.compat import register_outputs, warn_of_changes
from gpt2fast.hf.native import Options
from gpt2fast.hf.shapes import as_if_uniform, give_shapes
from gpt2fast.hf.source import config_of
from gpt2fast.hf.tracing import is_traced

CLASSES: dict[type, type] = {}  # transformers' and ours
Kind = TypeVar("Kind", bound=type)
HOME = "gpt2fast.hf.models"  # of our classes
_STATE = ("_native", "_native_options", "_native_told", "_native_trained", "_native_inside")
_TWIN = "_gpt2fast_twin"  # where a user's class has its own, which goes with it


class Accelerated:
    """What our classes share, before transformers' own among their bases. The runner is made
    when it is first needed."""

    def __init__(self, *inputs: Any, **kwargs: Any) -> None:
        config = kwargs.get("config", next(iter(inputs), None))
        if not isinstance(config, transformers.GPT2Config):
            super().__init__(*inputs, **kwargs)  # says what is wrong
            return
        with as_if_uniform(config):
            super().__init__(*inputs, **kwargs)
        if "per_layer_config" in config.to_dict():
            give_shapes(network_of(self), config_of(self))
        enlist(self)

    @classmethod
    def is_custom_code(cls) -> bool:
        """Whether transformers 5 has to expect an initialization of another kind than its own."""
        return cls.__module__ != HOME and bool(super().is_custom_code())  # type: ignore[misc]

    def __getstate__(self) -> dict[str, Any]:
        """For copies and pickles, which make a runner of their own."""
        return _without_runner(self.__dict__)


class Adopted:
    """What stands before a user's own class of transformers' models while it is accelerated."""

    _gpt2fast_adopts: type

    def __init_subclass__(cls, **_: Any) -> None:
        """What a user's class does with those derived from it is not meant for this one."""

    def __reduce_ex__(self, protocol: Any) -> Any:
        """By the user's class: nobody finds this one by its name."""
        reduced: Any = super().__reduce_ex__(protocol)
        if reduced[0] is not copyreg.__newobj__:  # type: ignore[attr-defined]
            return reduced
        # A class with a __getstate__ of its own leaves the runner in.
        return (_revive, (self._gpt2fast_adopts,), _without_runner(reduced[2]), *reduced[3:])


def _without_runner(state: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in state.items() if name != "_native"}


def _revive(kind: type) -> Any:
    made: Any = accelerated(kind)
    return made.__new__(made)


def in_place_of(theirs: Any) -> Callable[[Kind], Kind]:
    """Decorator of our class for ``theirs`` of transformers."""

    def take(ours: Any) -> Any:
        CLASSES[theirs] = ours
        ours.forward = _unless_traced(ours.forward, theirs.forward)
        return ours

    return take


def _unless_traced(ours: Any, theirs: Any) -> Any:
    @wraps(ours)
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        return (theirs if is_traced() else ours)(self, *args, **kwargs)

    # generate() looks at the signature for what a model takes.
    forward.__signature__ = inspect.signature(theirs)  # type: ignore[attr-defined]
    return forward


def accelerated(kind: Any) -> Any:
    """``kind``, one of transformers' classes or a subclass, with ours before transformers' among
    its bases: what a subclass overrides calls ours where it calls ``super()``."""
    if issubclass(kind, Accelerated):
        return kind
    if kind in CLASSES:
        return CLASSES[kind]
    if _TWIN not in vars(kind):
        ours = next(CLASSES[each] for each in kind.__mro__ if each in CLASSES)
        names = {name: getattr(kind, name) for name in ("__module__", "__qualname__", "__doc__")}
        names["_gpt2fast_adopts"] = kind
        setattr(kind, _TWIN, type(kind)(kind.__name__, (Adopted, kind, ours), names))
    return vars(kind)[_TWIN]


def network_of(model: Any) -> Any:
    """The ``GPT2Model`` that ``model`` is or has."""
    return model if isinstance(model, transformers.GPT2Model) else model.transformer


def enlist(model: Any, options: Options | None = None) -> None:
    """Let ``model``, of a class of transformers or of ours, and the network inside run on ours."""
    network = network_of(model)
    for each in (model, network):
        kind: Any = type(each)
        each.__class__ = accelerated(kind)
        register_outputs(each)
    warn_of_changes()
    network._native_options = options or Options()
    network._native_inside = model is not network
    network.__dict__.pop("_native", None)


def dismiss(model: Any) -> None:
    """Undo ``enlist``. Classes that were written for ours stay, and run in torch."""
    network = network_of(model)
    back = {ours: theirs for theirs, ours in CLASSES.items()}
    kinds = [type(each) for each in (model, network)]
    plain = [vars(kind).get("_gpt2fast_adopts") or back.get(kind, kind) for kind in kinds]
    if not issubclass(plain[0], Accelerated):
        model.__class__, network.__class__ = plain
    for name in _STATE:
        network.__dict__.pop(name, None)
