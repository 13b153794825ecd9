"""The argument parser: one line for a mistake, and no abbreviated options."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Sequence
from types import ModuleType
from typing import Any, NoReturn

from gpt2fast.cli import streams

_DESCRIPTION = "Run, shrink, measure and train GPT-2-family models."
_EXAMPLES = """\
examples:
  gpt2fast generate demo "import os"
  gpt2fast info gpt2
"""


class _Help(argparse.RawDescriptionHelpFormatter):
    """Breaks lines between words only: a part of ``--max-tokens`` is no name of anything."""

    def _split_lines(self, text: str, width: int) -> list[str]:
        words = " ".join(text.split())
        return textwrap.wrap(words, width, break_on_hyphens=False, break_long_words=False)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        if "\n" in text:  # examples, in lines of their own
            return super()._fill_text(text, width, indent)
        return "\n".join(indent + line for line in self._split_lines(text, width))


class Parser(argparse.ArgumentParser):
    """Subcommands get this class too, as argparse takes the class of the parent."""

    too_many = ""  # what to do where there are more words than arguments

    def __init__(self, *args: Any, **options: Any) -> None:
        # An abbreviation would change its meaning, or break, with the next option added.
        options.setdefault("allow_abbrev", False)
        options["formatter_class"] = _Help
        super().__init__(*args, **options)

    def error(self, message: str) -> NoReturn:
        """Leave with code 2 and one line; the usage of a long command would drown it."""
        message = " ".join(message.split())
        streams.say(f"{self.prog}: error: {message}; see {self.prog} --help")
        self.exit(2)


def parse_arguments(
    modules: dict[str, ModuleType], argv: Sequence[str] | None
) -> tuple[argparse.Namespace, dict[str, str]]:
    """The arguments of one command, and its flags by the names that the library has for them;
    ``modules`` maps subcommand names to their modules."""
    parser, subparsers = build_parser(modules)
    args, unknown = parser.parse_known_args(argv)
    command: Parser = subparsers.choices[args.command]
    if unknown:
        # argparse would blame the parent, whose help does not list the options of a subcommand.
        words = all(not each.startswith("-") for each in unknown)
        advice = command.too_many if words else ""
        command.error(f"unknown arguments: {' '.join(unknown)}{advice}")
    actions = command._actions
    flags = {each.dest: each.option_strings[-1] for each in actions if each.option_strings}
    return args, flags


def build_parser(modules: dict[str, ModuleType]) -> tuple[Parser, Any]:
    """The parser of ``gpt2fast``, and its subparsers."""
    parser = Parser(
        prog="gpt2fast",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
    )
    parser.add_argument("--version", action=_Version, help="print the version and exit")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for module in modules.values():
        module.add_parser(subparsers)
    return parser, subparsers


class _Version(argparse.Action):
    """Looks the version up only when asked: importlib.metadata is slow to import."""

    def __init__(self, option_strings: Sequence[str], dest: str, help: str) -> None:
        super().__init__(option_strings, argparse.SUPPRESS, nargs=0, help=help)

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from importlib.metadata import PackageNotFoundError, version

        try:
            number = version("gpt2fast")
        except PackageNotFoundError:  # run from a source tree that was never installed
            number = "(not installed)"
        streams.write(f"gpt2fast {number}\n")
        parser.exit()
