"""The argument parser: one line for a mistake, and no abbreviated options."""

from __future__ import annotations

import argparse
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


class Parser(argparse.ArgumentParser):
    """Subcommands get this class too, as argparse takes the class of the parent."""

    def __init__(self, *args: Any, **options: Any) -> None:
        # An abbreviation would change its meaning, or break, with the next option added.
        options.setdefault("allow_abbrev", False)
        super().__init__(*args, **options)

    def error(self, message: str) -> NoReturn:
        """Leave with code 2 and one line; the usage of a long command would drown it."""
        message = " ".join(message.split())
        self.exit(2, f"{self.prog}: error: {message}; see {self.prog} --help\n")


def parse_arguments(
    modules: dict[str, ModuleType], argv: Sequence[str] | None
) -> argparse.Namespace:
    """The arguments of one command; ``modules`` maps subcommand names to their modules."""
    parser, subparsers = build_parser(modules)
    args, unknown = parser.parse_known_args(argv)
    if unknown:
        # argparse would blame the parent, whose help does not list the options of a subcommand.
        subparsers.choices[args.command].error(f"unknown arguments: {' '.join(unknown)}")
    return args


def build_parser(modules: dict[str, ModuleType]) -> tuple[Parser, Any]:
    """The parser of ``gpt2fast``, and its subparsers."""
    parser = Parser(
        prog="gpt2fast",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
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
