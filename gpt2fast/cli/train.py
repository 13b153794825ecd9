"""``gpt2fast train``: pre-train or fine-tune a GPT-2 on text files."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from typing import Any

from gpt2fast.cli import EXIT_INTERRUPTED
from gpt2fast.errors import MissingDependencyError
from gpt2fast.train.options import TrainOptions, flag_name

_EXAMPLES = """\
examples:
  gpt2fast train notes/ 'books/*.txt' --out my-model --steps 2000
  gpt2fast train chats.txt more.txt --init distilgpt2 --out tuned --lr 5e-5 --steps 500
  gpt2fast train --corpus python --out runs/demo --resume
  accelerate launch --num_processes 8 -m gpt2fast train corpus/ --out big --precision bf16
"""

_TYPES = {"int": int, "int | None": int, "float": float, "str": str, "str | None": str}


def add_parser(subparsers: Any) -> None:
    """Add the subcommand; each field of TrainOptions becomes a flag."""
    parser = subparsers.add_parser(
        "train",
        help="pre-train or fine-tune on text files",
        description="Pre-train a GPT-2 from scratch, or fine-tune one with --init, on text files. "
        "Writes a Hugging Face directory with the loss curve and held-out perplexity.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    for field in dataclasses.fields(TrainOptions):
        help_text = field.metadata["help"]
        if field.name == "data":
            parser.add_argument("data", nargs="*", metavar="PATH", help=help_text)
        elif field.type == "bool":
            parser.add_argument(flag_name(field.name), action="store_true", help=help_text)
        elif field.type == "tuple[str, ...]":
            parser.add_argument(flag_name(field.name), nargs="+", default=(), help=help_text)
        else:
            shown = "" if field.default in (None, "") else f" ({field.default})"
            parser.add_argument(
                flag_name(field.name),
                type=_TYPES[str(field.type)],
                choices=field.metadata["choices"],
                default=field.default,
                required=field.name == "out",
                help=help_text + shown,
            )
    parser.add_argument("--json", action="store_true", help="print training.json to stdout")


def run(args: argparse.Namespace) -> int:
    """Train; print where the model is and its held-out perplexity."""
    values = {field.name: getattr(args, field.name) for field in dataclasses.fields(TrainOptions)}
    values["data"], values["held_out_data"] = tuple(args.data), tuple(args.held_out_data)
    options = TrainOptions(**values)
    try:
        from gpt2fast.train.loop import train
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            f"training needs {error.name}: pip install 'gpt2fast[torch]'"
        ) from None
    from gpt2fast.train.interrupt import TrainingInterrupted

    try:
        record = train(options)
    except TrainingInterrupted as stopped:
        print(f"gpt2fast: {stopped}", file=sys.stderr)
        return EXIT_INTERRUPTED
    from accelerate import PartialState

    if not PartialState().is_main_process:
        return 0
    if args.json:
        print(json.dumps(record, indent=2))
        return 0
    held_out = record["held_out"]
    quality = (
        f"held-out perplexity {held_out['perplexity']:.2f}, "
        f"{held_out['bits_per_byte']:.3f} bits/byte"
        if held_out
        else "nothing held out"
    )
    print(f"{options.out}: {record['steps']} steps, {quality}", file=sys.stderr)
    return 0
