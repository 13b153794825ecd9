"""Runs of the training loop on the command line: a flag for each field of their options."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Callable
from typing import Any, TypeVar

from gpt2fast.cli import EXIT_INTERRUPTED, streams
from gpt2fast.flag_names import flag_name
from gpt2fast.train.run_options import TextOptions

Options = TypeVar("Options", bound=TextOptions)

_TYPES = {
    **{"int": int, "int | None": int, "float": float, "float | None": float},
    **{"str": str, "str | None": str},
}
_ITEMS = {"tuple[str, ...]": str, "tuple[int, ...]": int}


def add_flags(parser: argparse.ArgumentParser, options: type[TextOptions], *needed: str) -> None:
    """Add a flag for each field of ``options``; those ``needed`` must be given."""
    for field in dataclasses.fields(options):
        name, help_text, kind = flag_name(field.name), field.metadata["help"], str(field.type)
        if field.name == "data":
            parser.add_argument("data", nargs="*", metavar="PATH", help=help_text)
        elif kind == "bool":
            parser.add_argument(name, action="store_true", help=help_text)
        elif kind in _ITEMS:
            parser.add_argument(name, type=_ITEMS[kind], nargs="+", default=(), help=help_text)
        else:
            shown = "" if field.default in (None, "") else f" ({field.default})"
            parser.add_argument(
                name,
                type=_TYPES[kind],
                choices=field.metadata["choices"],
                default=field.default,
                required=field.name in needed,
                help=help_text + shown,
            )
    parser.add_argument("--json", action="store_true", help="print training.json to stdout")


def options_of(args: argparse.Namespace, options: type[Options]) -> Options:
    """The options that ``args`` give. Raises OptionError for a bad value."""
    values: dict[str, Any] = {f.name: getattr(args, f.name) for f in dataclasses.fields(options)}
    lists = [name for name, value in values.items() if isinstance(value, list)]
    values.update({name: tuple(values[name]) for name in lists})
    return options(**values)


def run_and_report(
    args: argparse.Namespace,
    options: Options,
    run: Callable[[Options, Callable[[str], None]], dict[str, Any]],
) -> int:
    """``run``; then print where the model is and its held-out perplexity. Returns the exit code."""
    from gpt2fast.train.interrupt import TrainingInterrupted

    try:
        record = run(options, lambda line: streams.say(f"gpt2fast: {line}"))
    except TrainingInterrupted as stopped:
        streams.say(f"gpt2fast: {stopped}")
        return EXIT_INTERRUPTED
    from accelerate import PartialState

    if not PartialState().is_main_process:
        return 0
    if args.json:
        streams.write(json.dumps(record, indent=2) + "\n")
        return 0
    held_out = record["held_out"]
    quality = (
        f"held-out perplexity {held_out['perplexity']:.2f}, "
        f"{held_out['bits_per_byte']:.3f} bits/byte"
        if held_out
        else "nothing held out"
    )
    streams.say(f"{options.out}: {record['steps']} steps, {quality}")
    return 0
