"""``gpt2fast eval``: quality with its protocol and interval, alone or beside a reference."""

from __future__ import annotations

import argparse
import json
from typing import Any

from gpt2fast.cli import streams
from gpt2fast.cli.format_options import add_format_options
from gpt2fast.errors import OptionError
from gpt2fast.flag_names import flag_name

_EXAMPLES = """\
examples:
  gpt2fast eval demo --text held-out.txt
  gpt2fast eval demo --quantization int4 --reference demo --text held-out.txt
  gpt2fast eval ./small --reference gpt2 --lambada lambada_test.jsonl --bias
  gpt2fast eval gpt2 --text wiki.test.raw --protocol transformers --detokenizer wikitext-rows
  gpt2fast eval gpt2 --text wiki.test.raw --protocol lm-eval --detokenizer wikitext --json
"""


def add_parser(subparsers: Any) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "eval",
        help="perplexity, last words, bias, agreement with a reference",
        description="Measure the quality of a model on your text, with the protocol stated and a "
        "95 % interval; with --reference, what it lost against another model on the same text.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("model", metavar="MODEL", help="'demo', a directory, or a hub id")
    add("--reference", metavar="MODEL", help="the model to compare with, which has its tokenizer")
    _add_measures(parser.add_argument_group("what is measured"))
    running = parser.add_argument_group("running")
    running.add_argument(
        "--device", default="auto", help="auto, cpu, cuda[:<index>] or torch[:<device>]"
    )
    add_format_options(running)
    running.add_argument("--num-threads", type=int, help="default: the physical cores")
    running.add_argument("--revision", help="branch, tag or commit of a hub id")
    running.add_argument("--json", action="store_true", help="print one JSON object")


def _add_measures(group: Any) -> None:
    add = group.add_argument
    add(
        "--text",
        nargs="+",
        metavar="PATH",
        help="perplexity on this text: UTF-8 files, directories or globs",
    )
    add(
        "--protocol",
        default="stride",
        metavar="NAME",
        help="stride (each token but the first once), transformers (its script's) or lm-eval "
        "(stride)",
    )
    add(
        "--detokenizer",
        default="none",
        metavar="NAME",
        help="none; for a WikiText release wikitext (lm-eval's) or wikitext-rows (transformers' "
        "script) (none)",
    )
    add("--context", type=int, metavar="N", help="tokens of a window (the model's context)")
    add("--stride", type=int, metavar="N", help="between windows (half of it; transformers: 512)")
    add("--max-tokens", type=int, metavar="N", help="of the text's beginning (all of it)")
    add("--lambada", metavar="FILE", help="accuracy on last words: JSON lines with text, or plain")
    add(
        "--bias",
        nargs="?",
        const=True,
        default=False,
        metavar="FILE",
        help="log-odds of pairs such as he and she in sentences: bundled ones, or a file's",
    )
    add("--seed", type=int, default=0, help="of the bootstrap (0)")


def _refuse_what_has_no_effect(args: argparse.Namespace) -> None:
    if args.text is not None:
        return
    defaults = {"protocol": "stride", "detokenizer": "none"}
    for name in ("protocol", "detokenizer", "context", "stride", "max_tokens"):
        if getattr(args, name) != defaults.get(name):
            flag = flag_name(name)
            raise OptionError(
                f"{flag} is of --text, which is not given; add it, or leave {flag} out"
            )


def run(args: argparse.Namespace) -> int:
    """Measure; print the measures or one JSON object."""
    if args.text is None and args.lambada is None and args.bias is False:
        raise OptionError("there is nothing to measure; give --text, --lambada or --bias")
    _refuse_what_has_no_effect(args)
    from gpt2fast.cli.eval_table import render
    from gpt2fast.cli.progress import Progress
    from gpt2fast.evaluate.report import evaluate

    with Progress() as progress:
        report = evaluate(
            args.model,
            reference=args.reference,
            text=args.text,
            lambada=args.lambada,
            bias=args.bias,
            protocol=args.protocol,
            detokenizer=args.detokenizer,
            context=args.context,
            stride=args.stride,
            max_tokens=args.max_tokens,
            seed=args.seed,
            progress=progress.show,
            device=args.device,
            dtype=args.dtype,
            quantization=args.quantization,
            kv_cache_dtype=args.kv_cache_dtype,
            num_threads=args.num_threads,
            revision=args.revision,
        )
    streams.write((json.dumps(report, indent=2) if args.json else render(report)) + "\n")
    return 0
