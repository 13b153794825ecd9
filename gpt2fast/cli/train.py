"""``gpt2fast train``: pre-train or fine-tune a GPT-2 on text files."""

from __future__ import annotations

import argparse
from typing import Any

from gpt2fast.cli.run_flags import add_flags, options_of, run_and_report
from gpt2fast.errors import MissingDependencyError
from gpt2fast.train.options import TrainOptions

_EXAMPLES = """\
examples:
  gpt2fast train notes/ 'books/*.txt' --out my-model --steps 2000
  gpt2fast train chats.txt more.txt --init distilgpt2 --out tuned --lr 5e-5 --steps 500
  gpt2fast train --corpus python --out runs/demo
  accelerate launch --num_processes 8 -m gpt2fast train corpus/ --out big --precision bf16
"""


def add_parser(subparsers: Any) -> None:
    """Add the subcommand; each field of TrainOptions becomes a flag."""
    parser = subparsers.add_parser(
        "train",
        help="pre-train or fine-tune on text files",
        description="Pre-train a GPT-2 from scratch, or fine-tune one with --init, on text files. "
        "Writes a Hugging Face directory with the loss curve and held-out perplexity. After an "
        "interruption, repeat the command: it goes on where it stopped.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add_flags(parser, TrainOptions, "out")


def run(args: argparse.Namespace) -> int:
    """Train; print where the model is and its held-out perplexity."""
    options = options_of(args, TrainOptions)
    try:
        from gpt2fast.train.run import train
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            f"training needs {error.name}: pip install 'gpt2fast[torch]'"
        ) from None
    return run_and_report(args, options, train)
