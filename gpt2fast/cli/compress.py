"""``gpt2fast compress``: a smaller, faster model within a stated loss, and the proof of it."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from pathlib import Path
from typing import Any

from gpt2fast.cli import EXIT_INTERRUPTED, streams
from gpt2fast.errors import MissingDependencyError
from gpt2fast.terminal import text_table

_EXAMPLES = """\
examples:
  gpt2fast compress demo small --max-loss 1%
  gpt2fast compress gpt2 small --max-loss 2% --min-speedup 4 --text 'notes/*.txt'
  gpt2fast compress ./my-model small --max-size 90MB --text calib.txt --verify-text unseen.txt
  gpt2fast compress ./my-model small --recipe recipe.yaml --text calib.txt
"""


def add_parser(subparsers: Any) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "compress",
        help="make a model smaller and faster within a stated loss",
        description="Search recipes of quantization and pruning for the fastest model that keeps "
        "to a budget, or carry out a recipe; verify the result as saved on text that no pass saw, "
        "and write it with report.json, a model card and the plot of what was tried. What is done "
        "is kept beside OUT: after an interruption, repeat the command.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", metavar="MODEL", help="'demo', a directory, or a hub id")
    parser.add_argument("out", metavar="OUT", help="the directory to write; must be new or empty")
    parser.add_argument(
        "--max-loss",
        metavar="PERCENT",
        help="the rise of perplexity that is allowed, such as 1%%; the whole 95 %% interval must "
        "lie below",
    )
    parser.add_argument(
        "--min-speedup",
        type=float,
        metavar="X",
        help="how many times as fast as the original in float32, decoding at batch 1",
    )
    parser.add_argument("--max-size", metavar="SIZE", help="bytes of the weights, such as 90MB")
    parser.add_argument("--recipe", metavar="FILE", help="YAML: carry out these passes")
    parser.add_argument(
        "--text",
        nargs="+",
        default=[],
        metavar="PATH",
        help="UTF-8 files, directories or globs like what the model is for; cut into text that "
        "passes see, text to choose by, and text to verify on (default: the model writes its own)",
    )
    parser.add_argument(
        "--verify-text",
        nargs="+",
        default=[],
        metavar="PATH",
        help="text to verify on, instead of a part of --text",
    )
    parser.add_argument("--work", metavar="DIR", help="where work under way is kept (OUT.work)")
    parser.add_argument("--seed", type=int, default=0, help="of text that the model writes (0)")
    parser.add_argument("--num-threads", type=int, help="default: the physical cores")
    parser.add_argument("--revision", help="branch, tag or commit of a hub id")
    parser.add_argument("--json", action="store_true", help="print report.json to stdout")


def run(args: argparse.Namespace) -> int:
    """Write ``args.out``; print what it is."""
    try:
        from gpt2fast.cli.compress_progress import CompressProgress
        from gpt2fast.compress.budget import Budget, parse_percent, parse_size
        from gpt2fast.compress.recipe.passes import OPTIONS
        from gpt2fast.compress.recipe.recipe import read_recipe
        from gpt2fast.compress.run import CompressOptions, compress
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            f"compression needs {error.name}: pip install 'gpt2fast[compress]'"
        ) from None
    budget = Budget(
        None if args.max_loss is None else parse_percent(args.max_loss),
        args.min_speedup,
        None if args.max_size is None else parse_size(args.max_size),
    )
    options = CompressOptions(
        model=args.model,
        out=Path(args.out),
        budget=budget,
        recipe=None if args.recipe is None else read_recipe(Path(args.recipe), OPTIONS),
        text=tuple(args.text),
        verify_text=tuple(args.verify_text),
        work=None if args.work is None else Path(args.work),
        revision=args.revision,
        seed=args.seed,
        num_threads=args.num_threads,
        command=shlex.join(["gpt2fast", *sys.argv[1:]]),
    )
    with CompressProgress() as lines:
        try:
            report = compress(options, lines.say, lines.result, lines.trying)
        except KeyboardInterrupt:
            work = options.work_directory
            lines.result(
                f"gpt2fast: interrupted; what is done is in {work}. Repeat the command to go on"
            )
            return EXIT_INTERRUPTED
    streams.write((json.dumps(report, indent=2) if args.json else render(report, args.out)) + "\n")
    return 0


def render(report: dict[str, Any], out: str) -> str:
    """The result in a few lines."""
    original, artifact = report["original"], report["artifact"]
    quality, speed, text = report["quality"], report["speed"], report["text"]
    passes = " + ".join(name for entry in report["recipe"]["passes"] for name in entry)
    left = report["coverage"]
    rows = [
        ("", "original", "compressed"),
        (
            "perplexity",
            f"{quality['perplexity_before']:.3f}",
            f"{quality['perplexity_after']:.3f}  ({quality['percent']:+.2f} %, 95 % interval "
            f"{quality['percent_low']:+.2f} to {quality['percent_high']:+.2f} %)",
        ),
        ("same favourite token", "", f"{100 * quality['top1_agreement']:.1f} %"),
        (
            "weights as stored",
            f"{original['bytes'] / 1e6:.1f} MB",
            f"{artifact['bytes'] / 1e6:.1f} MB  ({left['uncompressed_bytes'] / 1e6:.1f} MB not "
            "compressed)",
        ),
        (
            "tokens a second",
            f"{speed['original']:.0f} (float32)",
            f"{speed['compressed']:.0f}  ({speed['speedup']:.2f}x)",
        ),
    ]
    return "\n".join(
        [
            f"{out}: {passes}; {len(report['search'])} recipes tried",
            text_table(rows, "<><"),
            f"on {quality['protocol']['predicted_tokens']:,} tokens of {text['origin']} that no "
            f"pass saw{_verified(report)}; report.json has the rest",
        ]
    )


def _verified(report: dict[str, Any]) -> str:
    count = report["budget"]["verified"]
    return "" if count == 1 else f" ({count} artifacts were held against it)"
