"""``gpt2fast export``: a verified ONNX directory for onnxruntime."""

from __future__ import annotations

import argparse
import json
from time import perf_counter
from typing import Any

from gpt2fast.cli import streams
from gpt2fast.cli.info import size_text
from gpt2fast.cli.progress import Progress

_EXAMPLES = """\
examples:
  gpt2fast export gpt2 gpt2-onnx
  gpt2fast export gpt2 gpt2-onnx-int4 --precision int4
  gpt2fast export ./compressed ./compressed-onnx --json
"""


def add_parser(subparsers: Any) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "export",
        help="write a model for onnxruntime, and prove that it is the model",
        description="Write a checkpoint as one ONNX graph with a cache, with its configuration and "
        "tokenizer, run it in onnxruntime beside the model, and fail where the two differ.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", metavar="MODEL", help="'demo', a directory, or a hub id")
    parser.add_argument("out", metavar="OUT", help="the directory to write; must be new or empty")
    parser.add_argument(
        "--precision",
        default="auto",
        metavar="NAME",
        help="fp32, fp16, bf16, int8 or int4; auto: fp32, or the integers of the checkpoint (auto)",
    )
    parser.add_argument(
        "--target",
        default="ort",
        metavar="NAME",
        help="ort: operators of onnxruntime's own; portable: standard ones alone (ort)",
    )
    parser.add_argument("--num-threads", type=int, help="default: the physical cores")
    parser.add_argument("--revision", help="branch, tag or commit of a hub id")
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end")


def run(args: argparse.Namespace) -> int:
    """Write ``args.out``; print what was proven."""
    return _run(args)


def _run(args: argparse.Namespace) -> int:
    from gpt2fast.export import ExportOptions, export

    begin = perf_counter()
    options = ExportOptions(args.precision, args.target, args.num_threads, args.revision)
    with Progress() as progress:
        report = export(args.model, args.out, options, progress.show)
    report["seconds"] = perf_counter() - begin
    streams.write((json.dumps(report) if args.json else _render(args.out, report)) + "\n")
    return 0


def _render(out: str, report: dict[str, Any]) -> str:
    proof, size = report["certificate"], sum(report["export"]["bytes"].values())
    return (
        f"{out}: {size_text(size)}, {proof['precision']}; in {proof['runtime']} on "
        f"{proof['tokens']} tokens perplexity {proof['perplexity']:.3f} (model "
        f"{proof['source_perplexity']:.3f}), {proof['agreement']:.1%} of the most likely tokens "
        f"agree, logits within {proof['logits_difference']:.1e} of the largest; from the cache "
        f"{proof['cached_difference']:.1e}, in a batch {proof['batch_difference']:.1e}; "
        f"{report['seconds']:.1f} s"
    )
