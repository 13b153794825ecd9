"""The command line. Each subcommand is a module with ``add_parser(subparsers)`` and ``run(args)``.

Those modules import only what their parser needs; ``run`` imports the rest. ``gpt2fast --help``
and the checks of the arguments so cost no import of numpy, and a first token comes early.

This module itself imports next to nothing, so that Ctrl-C is quiet from the first moment on.
"""

from __future__ import annotations

from collections.abc import Sequence

EXIT_INTERRUPTED = 130  # 128 + SIGINT


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 2 for bad input, 130 when interrupted.

    Raises SystemExit where argparse does: with 0 for ``--help``, with 2 for unknown arguments.
    """
    try:
        from gpt2fast.cli.dispatch import run_command

        return run_command(argv)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
