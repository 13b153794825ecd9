"""``gpt2fast distill``: train a smaller model to predict as a larger one does."""

from __future__ import annotations

import argparse
from typing import Any

from gpt2fast.cli.run_flags import add_flags, options_of, run_and_report
from gpt2fast.compress.distill.options import DistillOptions
from gpt2fast.errors import MissingDependencyError

_EXAMPLES = """\
examples:
  gpt2fast distill texts/ --teacher gpt2 --depth 6 --out half --lr 2e-4 --steps 5000
  gpt2fast distill texts/ --teacher gpt2 --depth 6 --width 512 --out small --hidden-weight 1
  gpt2fast distill texts/ --teacher gpt2-xl --student gpt2 --out better --samples 48
  gpt2fast distill texts/ --teacher gpt2 --depth 6 --out half --loss alpha-beta --ce-weight 0.5
"""


def add_parser(subparsers: Any) -> None:
    """Add the subcommand; each field of DistillOptions becomes a flag."""
    parser = subparsers.add_parser(
        "distill",
        help="train a smaller model to predict as a larger one does",
        description="Train a student on text files to predict as its teacher does. It begins as "
        "some of the teacher's layers (--depth or --layers, --width), or as a model of its own "
        "(--student). Writes a Hugging Face directory as train does. After an interruption, repeat "
        "the command: it goes on where it stopped.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add_flags(parser, DistillOptions, "out", "teacher")


def run(args: argparse.Namespace) -> int:
    """Distil; print where the student is and its held-out perplexity."""
    options = options_of(args, DistillOptions)
    try:
        from gpt2fast.compress.distill.distill import distill
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            f"distillation needs {error.name}: pip install 'gpt2fast[compress]'"
        ) from None
    return run_and_report(args, options, distill)
