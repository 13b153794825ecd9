"""Which of our classes stands for which of transformers', how a model changes to it, and back."""

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
from gpt2fast.hf.compat import register_outputs, warn_of_changes
from gpt2fast.hf.dispatch.dispatch import mark_dispatching
from gpt2fast.hf.dispatch.tracing import is_traced
from gpt2fast.hf.weights.layer_shapes import as_if_uniform, give_shapes
from gpt2fast.hf.weights.module_checkpoint import config_of

CLASSES: dict[type, type] = {}  # transformers' and ours
Kind = TypeVar("Kind", bound=type)
_OF_RUNS = ("_native", LAST_RUN)  # of this model, and of no copy
_STATE = (*_OF_RUNS, "_native_options", "_native_told", "_native_trained", "_native_inside")
_TWIN = "_gpt2fast_twin"  # where a user's class has its own, which goes with it


class Accelerated:
    """What our classes share, before transformers' own among their bases. The runner is made
    when it is first needed."""

    # Our classes among the bases, behind whose forward that of another class stands before
    # transformers' own.
    _gpt2fast_passed: ClassVar[frozenset[type]] = frozenset()

    def __init_subclass__(cls, **more: Any) -> None:
        """Note which classes' ``forward`` stand between ours and transformers'."""
        super().__init_subclass__(**more)
        cls._gpt2fast_passed = frozenset(
            ours
            for theirs, ours in CLASSES.items()
            if issubclass(cls, ours) and _forward_behind(cls, ours) is not theirs
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
        """As transformers' ``from_pretrained``, with the options of ``gpt2fast.accelerate``; where
        the weights are says ``device_map``, and ``device`` where the runner is.

        Raises OptionError for options that are not known, or that are not what a quantized
        directory is stored in.
        """
        asked = (quantization, device, num_threads, strict)
        check_options(*asked)  # before anything is loaded
        found: Any = super().from_pretrained(  # type: ignore[misc]
            pretrained_model_name_or_path, *model_args, **kwargs
        )
        model = found[0] if isinstance(found, tuple) else found  # with output_loading_info
        if asked != (None, None, None, False):
            enlist(model, options_for(model, *asked))
        return found

    @property
    def last_run(self) -> LastRun | None:
        """Where the last call of ``forward`` or ``generate`` ran; None before the first."""
        run: LastRun | None = network_of(self).__dict__.get(LAST_RUN)
        return run

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
        return cls not in CLASSES.values() and bool(super().is_custom_code())  # type: ignore[misc]

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
    return {name: value for name, value in state.items() if name not in _OF_RUNS}


def _revive(kind: type) -> Any:
    made: Any = accelerated(kind)
    return made.__new__(made)


def in_place_of(theirs: Any) -> Callable[[Kind], Kind]:
    """Decorator of our class for ``theirs`` of transformers."""

    def take(ours: Any) -> Any:
        CLASSES[theirs] = ours
        ours.forward = _where_it_may(ours, theirs)
        return ours

    return take


def _where_it_may(ours: Any, theirs: Any) -> Any:
    """The forward of ``ours``, which calls the class behind where torch traces it, and where that
    class is not ``theirs`` but one that overrides it."""
    own = ours.forward

    @wraps(own)
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        if is_traced() or ours in self._gpt2fast_passed:
            return super(ours, self).forward(*args, **kwargs)
        return own(self, *args, **kwargs)

    # generate() looks at the signature for what a model takes.
    forward.__signature__ = inspect.signature(theirs.forward)  # type: ignore[attr-defined]
    return mark_dispatching(forward)


def _forward_behind(kind: type, ours: type) -> type:
    """The class whose ``forward`` that of ``ours`` finds behind itself in models of ``kind``."""
    behind = kind.__mro__[kind.__mro__.index(ours) + 1 :]
    return next(each for each in behind if "forward" in vars(each))


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
    for name in _OF_RUNS:
        network.__dict__.pop(name, None)


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
