"""``gpt2fast bench``: latency, throughput and quality beside the machine's limits and peers."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from typing import TYPE_CHECKING, Any

from gpt2fast.cli import EXIT_INTERRUPTED, streams

if TYPE_CHECKING:
    from gpt2fast.bench.options import BenchOptions, Plan

_EXAMPLES = """\
examples:
  gpt2fast bench demo
  gpt2fast bench --random gpt2 --format float32 int8 int4 --out results/
  gpt2fast bench gpt2 --system all --batch 1 8 16 --text held-out.txt --out results/
  gpt2fast bench --random gpt2 -s gpt2fast:bfloat16 llama_cpp:float16 --rounds 9
  gpt2fast bench demo --prompt 16 --tokens 480 --out results/      # latency against context
"""

_EXIT_NOTHING = 1  # no case could be measured


def add_parser(subparsers: Any) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "bench",
        help="latency, throughput and quality beside the machine's limits and other systems",
        description="Measure time to first token, time between tokens, throughput, memory and "
        "start-up over a grid, beside the limits of this machine measured in the same run. "
        "Systems take turns in rounds, each in a process of its own; one that does not give "
        "gpt2fast's float32 greedy tokens is not timed.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("models", metavar="MODEL", nargs="*", help="'demo', a directory, a hub id")
    add = parser.add_argument
    add(
        "--random",
        nargs="+",
        default=(),
        metavar="SIZE",
        help="random weights of a true size: gpt2, gpt2-medium, gpt2-large, gpt2-xl",
    )
    add("--out", metavar="DIR", help="write rows.json, rows.csv, report.html and plots there")
    add("--overwrite", action="store_true", help="replace the result that --out has already")
    add("--json", action="store_true", help="print one JSON object in place of the table")
    _add_grid(parser.add_argument_group("what is compared (each takes several values)"))
    _add_measurement(parser.add_argument_group("measurement"))
    _add_quality(parser.add_argument_group("quality"))


def _add_grid(group: Any) -> None:
    add = group.add_argument
    add(
        "-s",
        "--system",
        nargs="+",
        default=("gpt2fast",),
        metavar="NAME",
        help="gpt2fast, gpt2fast-onnx, transformers-eager, transformers-sdpa, "
        "transformers-compile, onnxruntime, ctranslate2, openvino, llama_cpp, or 'all' that are "
        "installed; NAME:FORMAT,FORMAT chooses formats for one (gpt2fast)",
    )
    add(
        "--format",
        nargs="+",
        default=("auto",),
        help="float32, float16, bfloat16, int8, int4, int3; stored: as a compressed model or an "
        "export is; auto: stored for those, else float32 (auto)",
    )
    add("--batch", type=int, nargs="+", default=(1,), metavar="N", help="sequences at once (1)")
    add("--prompt", type=int, nargs="+", default=(128,), metavar="N", help="prompt tokens (128)")
    add("--tokens", type=int, nargs="+", default=(128,), metavar="N", help="new tokens (128)")
    add("--threads", type=int, nargs="+", default=(), metavar="N", help="(the physical cores)")
    add("--kv-cache-dtype", nargs="+", default=(), metavar="DTYPE", help="of gpt2fast's cache")


def _add_measurement(group: Any) -> None:
    add = group.add_argument
    add("--rounds", type=int, default=5, metavar="N", help="runs of each case (5)")
    add(
        "--starts",
        type=int,
        default=3,
        metavar="N",
        help="starts of each process; one that takes over 10 s is started once (3)",
    )
    add(
        "--baseline",
        metavar="NAME",
        help="what ratios are over: SYSTEM or SYSTEM:FORMAT (the first)",
    )
    add(
        "--timeout",
        type=float,
        default=1800.0,
        metavar="SECONDS",
        help="for one request to a system (1800)",
    )
    add("--work", metavar="DIR", help="keeps random and converted models (the user's cache)")


def _add_quality(group: Any) -> None:
    add = group.add_argument
    add(
        "--text",
        nargs="+",
        default=(),
        metavar="PATH",
        help="report perplexity on this text beside each speed: UTF-8 files, directories or globs",
    )
    add("--text-tokens", type=int, default=4096, metavar="N", help="of its beginning (4096)")
    add("--context", type=int, metavar="N", help="of the perplexity's windows (the model's)")
    add("--stride", type=int, metavar="N", help="between the windows (half their context)")


def run(args: argparse.Namespace) -> int:
    """Measure; print the table or one JSON object, and write files to ``--out``."""
    from gpt2fast.bench.options import BenchOptions, make_plan
    from gpt2fast.bench.progress import Progress
    from gpt2fast.bench.rows import make_record
    from gpt2fast.bench.run import measure
    from gpt2fast.bench.table import render

    options = _options(args, BenchOptions)
    plan = make_plan(options)
    _name_missing(plan)
    date = time.strftime("%Y-%m-%d %H:%M")
    measured = measure(plan, Progress(options.rounds))
    record = make_record(plan, measured, _command(args), date)
    if measured.interrupted and not measured.samples:
        streams.say("gpt2fast: interrupted before anything was measured")
        return EXIT_INTERRUPTED
    streams.write((json.dumps(record, indent=1) if args.json else render(record)) + "\n")
    _write(plan, record)
    if measured.interrupted:
        streams.say("gpt2fast: interrupted; what was measured until then is kept")
        return EXIT_INTERRUPTED
    return 0 if any(row["status"] == "ok" for row in record["rows"]) else _EXIT_NOTHING


def _options(args: argparse.Namespace, kind: type[BenchOptions]) -> BenchOptions:
    values: dict[str, Any] = {}
    for field in dataclasses.fields(kind):
        value = getattr(args, field.name)
        values[field.name] = tuple(value) if isinstance(value, list) else value
    return kind(**values)


def _command(args: argparse.Namespace) -> str:
    from gpt2fast.bench.report_method import command_line

    return command_line(args.argv if hasattr(args, "argv") else sys.argv[1:])


def _name_missing(plan: Plan) -> None:
    from gpt2fast.bench import peers

    for system in dict.fromkeys(case.variant.system for case in plan.cases):
        if reason := peers.missing(system):
            streams.say(f"gpt2fast: {reason}")


def _write(plan: Plan, record: dict[str, Any]) -> None:
    """All files of ``--out``."""
    if plan.out is None:
        return
    from gpt2fast.bench.results import write_results

    paths = write_results(record, plan.out, lambda line: streams.say(f"gpt2fast: {line}"))
    names = ", ".join(path.name for path in paths)
    streams.say(f"gpt2fast: wrote {names} in {plan.out}")
