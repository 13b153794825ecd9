"""A pytest plugin that stands for a release of transformers to come: ``use_cache`` of GPT-2's
``forward`` is called ``caches``, and so it is by what ``generate`` gives."""

from __future__ import annotations

import functools
import inspect
from typing import Any

import transformers
from transformers.generation.utils import GenerationMixin

OLD, NEW = "use_cache", "caches"


def _renamed(theirs: Any) -> Any:
    @functools.wraps(theirs)
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        if NEW in kwargs:
            kwargs[OLD] = kwargs.pop(NEW)
        return theirs(self, *args, **kwargs)

    signature = inspect.signature(theirs)
    renamed = [
        each.replace(name=NEW) if each.name == OLD else each
        for each in signature.parameters.values()
    ]
    forward.__signature__ = signature.replace(parameters=renamed)  # type: ignore[attr-defined]
    return forward


_prepare = GenerationMixin.prepare_inputs_for_generation


@functools.wraps(_prepare)
def _prepare_renamed(self: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
    given = _prepare(self, *args, **kwargs)
    return {NEW if name == OLD else name: value for name, value in given.items()}


for _name in ("GPT2Model", "GPT2LMHeadModel"):
    _kind = getattr(transformers, _name)
    _kind.forward = _renamed(_kind.forward)
GenerationMixin.prepare_inputs_for_generation = _prepare_renamed
