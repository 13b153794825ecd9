"""A recipe: the passes that make a model smaller, in order, each with its options. YAML or JSON.

passes:
  - prune-neurons: {keep: 0.75}
  - recover: {steps: 300}
  - quantize: {method: gptq, blocks: int4-g64, head: int8-g64}
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpt2fast.compress.recipe.yaml_file import read_yaml
from gpt2fast.errors import OptionError, show
from gpt2fast.quantization import (
    DEFAULT_GROUP,
    FLOAT_FORMATS,
    GROUP_SIZES,
    INTEGER_FORMATS,
    MatrixFormat,
)

MAX_BYTES = 2**20  # of a recipe's file


@dataclass(frozen=True)
class Step:
    """One pass of a recipe. ``options`` is the frozen dataclass of that pass."""

    name: str
    options: Any

    def to_json(self) -> dict[str, Any]:
        """``{name: {option: value}}`` with all options, the defaults too."""
        fields = dataclasses.fields(self.options)
        return {self.name: {f.name: _plain(getattr(self.options, f.name)) for f in fields}}


@dataclass(frozen=True)
class Recipe:
    """Passes in their order."""

    steps: tuple[Step, ...]

    def to_json(self) -> dict[str, Any]:
        """What ``parse_recipe`` takes."""
        return {"passes": [step.to_json() for step in self.steps]}

    @property
    def key(self) -> str:
        """A name for exactly this recipe, twelve hexadecimal digits."""
        return _digest(self.to_json())

    def prefix_key(self, count: int) -> str:
        """The key of the first ``count`` passes, which recipes may share."""
        return Recipe(self.steps[:count]).key

    @property
    def label(self) -> str:
        """In a line: the passes, their formats, and what else is not the default."""
        return " + ".join(map(_step_label, self.steps)) or "nothing"


def _plain(value: Any) -> Any:
    """``value`` of an option as JSON has it."""
    if isinstance(value, MatrixFormat):
        return value.label
    return list(map(_plain, value)) if isinstance(value, tuple) else value


def _step_label(step: Step) -> str:
    fields = dataclasses.fields(step.options)
    given = [(field.name, getattr(step.options, field.name), field.default) for field in fields]
    told = [
        f"{name}={_plain(value)}"
        for name, value, default in given
        if value != default or isinstance(value, MatrixFormat)
    ]
    return f"{step.name}({', '.join(told)})" if told else step.name


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]


def read_recipe(path: Path, passes: Mapping[str, type]) -> Recipe:
    """The recipe in a YAML (or JSON) file. ``passes`` maps their names to their options.

    Raises OptionError that names the file, the pass and the option.
    """
    try:
        content = path.read_bytes()[: MAX_BYTES + 1]
        text = content.decode()
    except OSError as error:
        raise OptionError(f"--recipe {path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise OptionError(f"--recipe {path}: is not UTF-8 text") from None
    if len(content) > MAX_BYTES:
        raise OptionError(f"--recipe {path}: is larger than {MAX_BYTES} bytes; is it a recipe?")
    return parse_recipe(read_yaml(text, f"--recipe {path}"), str(path), passes)


def parse_recipe(value: object, source: str, passes: Mapping[str, type]) -> Recipe:
    """A recipe from plain data. Raises OptionError that says what in ``source`` is wrong."""
    if not isinstance(value, dict) or value.keys() != {"passes"}:
        raise OptionError(f"{source}: a recipe is one list under 'passes', got {show(value)}")
    entries = value["passes"]
    if not isinstance(entries, list) or not entries:
        raise OptionError(f"{source}: 'passes' must be a list of at least one pass")
    return Recipe(tuple(_parse_step(entry, source, passes) for entry in entries))


def _parse_step(entry: object, source: str, passes: Mapping[str, type]) -> Step:
    if isinstance(entry, str):
        entry = {entry: None}
    if not isinstance(entry, dict) or len(entry) != 1:
        raise OptionError(f"{source}: a pass is 'name' or 'name: {{options}}', got {show(entry)}")
    ((name, given),) = entry.items()
    if name not in passes:
        raise OptionError(f"{source}: no pass {show(name)}; there are {', '.join(sorted(passes))}")
    given = {} if given is None else given
    if not isinstance(given, dict):
        raise OptionError(f"{source}: the options of {name} must be a mapping, got {show(given)}")
    return Step(name, _make_options(passes[name], given, f"{source}: {name}"))


def _make_options(kind: type, given: dict[Any, Any], where: str) -> Any:
    hints = typing.get_type_hints(kind)
    known = [field.name for field in dataclasses.fields(kind)]
    values = {}
    for name, value in given.items():
        if name not in known:
            raise OptionError(f"{where} has no option {show(name)}; it has {', '.join(known)}")
        values[name] = _convert(value, hints[name], f"{where}: {name}")
    try:
        return kind(**values)
    except OptionError as error:
        # Options that are flags of a command elsewhere are fields of a recipe here.
        told = re.sub(r"--([a-z][a-z-]*)", lambda found: found[1].replace("-", "_"), str(error))
        raise OptionError(f"{where}: {told}") from None


def _convert(value: object, hint: Any, where: str) -> Any:
    """``value`` as the type ``hint`` of an option: a scalar, a tuple or pairs of them, or None."""
    if hint is MatrixFormat and isinstance(value, str):
        return _parse_format(value, where)
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        (inner,) = [argument for argument in arguments if argument is not type(None)]
        return _convert(value, inner, where)
    if origin is tuple and isinstance(value, list | tuple):
        if len(arguments) == 2 and arguments[1] is ...:
            return tuple(_convert(item, arguments[0], where) for item in value)
        if len(arguments) == len(value):
            return tuple(map(_convert, value, arguments, [where] * len(value)))
    if hint is float and type(value) in (int, float) and abs(value) < math.inf:  # type: ignore[arg-type]
        return float(value)  # type: ignore[arg-type]
    if hint in (int, str, bool) and type(value) is hint:
        return value
    raise OptionError(f"{where} = {show(value)} must be {_described(hint)}")


def _described(hint: Any) -> str:
    """What a value of the type ``hint`` looks like, for a message."""
    arguments = [argument for argument in typing.get_args(hint) if argument is not type(None)]
    if typing.get_origin(hint) is not tuple:
        return _LOOKS.get(arguments[0] if arguments else hint, str(hint))
    if arguments[-1] is ...:
        inner = arguments[0]
        pair = typing.get_origin(inner) is tuple
        return "a list of pairs" if pair else f"a list, each item {_described(inner)}"
    return "a pair: " + ", ".join(map(_described, arguments))


_LOOKS = {
    float: "a finite number",
    int: "a whole number",
    str: "a word",
    bool: "true or false",
    MatrixFormat: "a format such as int4-g64",
}


def _parse_format(label: str, where: str) -> MatrixFormat:
    """From "int4-g64", "int4" (its usual groups), "float32" and the like."""
    name, _, group = label.partition("-g")
    if name in FLOAT_FORMATS and not group:
        return MatrixFormat(name)
    if name in INTEGER_FORMATS:
        size = group or str(DEFAULT_GROUP)
        if size in map(str, GROUP_SIZES):
            return MatrixFormat(name, int(size))
    raise OptionError(
        f"{where} = {show(label)} is no format; use {', '.join(INTEGER_FORMATS)} (with a group "
        f"size such as int4-g32) or {', '.join(FLOAT_FORMATS)}"
    )
