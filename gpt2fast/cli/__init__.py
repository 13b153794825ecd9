"""The command line. Each subcommand is a module with ``add_parser(subparsers)`` and ``run(args)``.

Those modules import only what their parser needs; ``run`` imports the rest. ``gpt2fast --help``
and the checks of the arguments so cost no import of numpy, and a first token comes early.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import warnings
from collections.abc import Sequence
from types import ModuleType
from typing import Any

from gpt2fast.errors import GPT2FastError

COMMANDS = ("generate", "info", "train")

_DESCRIPTION = "Run and train GPT-2-family models."
_EXAMPLES = """\
examples:
  gpt2fast generate demo "import os"
  gpt2fast info gpt2
"""

EXIT_BAD_INPUT = 2
EXIT_FAILED = 1
EXIT_INTERRUPTED = 130  # 128 + SIGINT
EXIT_BROKEN_PIPE = 141  # 128 + SIGPIPE


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 2 for bad input, 130 when interrupted.

    Raises SystemExit where argparse does: with 0 for ``--help``, with 2 for unknown arguments.
    """
    modules = {name: importlib.import_module(f"{__name__}.{name}") for name in COMMANDS}
    args = build_parser(modules).parse_args(argv)
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning  # type: ignore[assignment]
        try:
            code: int = modules[args.command].run(args)
            sys.stdout.flush()  # a closed pipe should be noticed here, not at interpreter exit
            return code
        except GPT2FastError as error:
            return _fail(str(error), EXIT_BAD_INPUT)
        except KeyboardInterrupt:
            return EXIT_INTERRUPTED
        except BrokenPipeError:
            return _leave_broken_pipe()
        except OSError as error:  # no space left, no permission: the machine's fault, not a bug
            return _fail(str(error), EXIT_FAILED)


def build_parser(modules: dict[str, ModuleType]) -> argparse.ArgumentParser:
    """The parser of ``gpt2fast``; ``modules`` maps subcommand names to their modules."""
    parser = argparse.ArgumentParser(
        prog="gpt2fast",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action=_Version, help="print the version and exit")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for module in modules.values():
        module.add_parser(subparsers)
    return parser


class _Version(argparse.Action):
    """Looks the version up only when asked: importlib.metadata is slow to import."""

    def __init__(self, option_strings: Sequence[str], dest: str, help: str) -> None:
        super().__init__(option_strings, argparse.SUPPRESS, nargs=0, help=help)

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from importlib.metadata import version

        print(f"gpt2fast {version('gpt2fast')}")
        parser.exit()


def _show_warning(message: Warning | str, *_: Any) -> None:
    print(f"gpt2fast: warning: {message}", file=sys.stderr)


def _fail(message: str, code: int) -> int:
    print(f"gpt2fast: error: {' '.join(message.split())}", file=sys.stderr)
    return code


def _leave_broken_pipe() -> int:
    # What is still buffered goes nowhere, else the interpreter complains about it while exiting.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return EXIT_BROKEN_PIPE
