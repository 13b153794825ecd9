"""``gpt2fast quantize``: write a model with integer weights that loads at once."""

from __future__ import annotations

import argparse
import itertools
import json
from time import perf_counter
from typing import TYPE_CHECKING, Any

from gpt2fast.cli import streams
from gpt2fast.cli.info import size_text
from gpt2fast.cli.progress import Progress
from gpt2fast.errors import MissingDependencyError, OptionError

if TYPE_CHECKING:
    from pathlib import Path

    from gpt2fast.checkpoint import Checkpoint
    from gpt2fast.quantization import Quantization

_EXAMPLES = """\
examples:
  gpt2fast quantize gpt2 gpt2-int8 --quantization int8
  gpt2fast quantize ./my-model ./my-model-int4 --quantization int4-g32 --json
  gpt2fast quantize gpt2 gpt2-int4 --quantization int4 --method gptq --calibration 'notes/*.txt'
  gpt2fast generate gpt2-int8 "Once upon a time"
"""
_METHODS = ("rtn", "clip", "awq", "gptq")
MAX_SEED = 2**31


def add_parser(subparsers: Any) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "quantize",
        help="write a model with int8, int4 or int3 weights",
        description="Round the matrices of a checkpoint to integers, to nearest or for the inputs "
        "that text makes, and write them, with its configuration and tokenizer, as a new directory "
        "that every command takes for a model.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", metavar="MODEL", help="'demo', a directory, or a hub id")
    parser.add_argument("out", metavar="OUT", help="the directory to write; must be new or empty")
    parser.add_argument(
        "--quantization",
        required=True,
        metavar="SCHEME",
        help="int8, int4, int3, or with a group size of 32, 64 or 128, such as int4-g32",
    )
    parser.add_argument(
        "--method",
        default="rtn",
        choices=_METHODS,
        help="rtn: to nearest; clip: scales of the least error; awq, gptq: for the inputs that "
        "text makes (rtn)",
    )
    parser.add_argument(
        "--calibration",
        "--text",
        nargs="+",
        default=[],
        metavar="PATH",
        help="UTF-8 files, directories or globs like what the model is for, which clip, awq and "
        "gptq look at (default: the model writes its own)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the choice of that text (0)")
    parser.add_argument("--num-threads", type=int, help="default: the physical cores")
    parser.add_argument("--revision", help="branch, tag or commit of a hub id")
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end")


def run(args: argparse.Namespace) -> int:
    """Write ``args.out``; print what it took."""
    return _run(args)


def _run(args: argparse.Namespace) -> int:
    from pathlib import Path

    from gpt2fast.checkpoint import open_checkpoint
    from gpt2fast.files.atomic import check_out
    from gpt2fast.quantization import Quantization

    begin = perf_counter()
    calibrated = None
    scheme = Quantization.parse(args.quantization)
    _check(args)
    out = Path(args.out)
    check_out(out)  # before the minutes of work
    with open_checkpoint(args.model, revision=args.revision) as checkpoint:
        if (stored := checkpoint.quantization) is not None:
            raise OptionError(
                f"{checkpoint.path} is already stored in {stored.name}; copy it, or give the float "
                "checkpoint it was made from"
            )
        before = checkpoint.num_bytes
        if args.method == "rtn":
            _quantize(checkpoint, out, scheme, args.num_threads)
        else:
            calibrated = _calibrate(checkpoint.path, out, scheme, args)
    with open_checkpoint(out) as written:
        facts = {
            "out": str(out),
            "quantization": scheme.name,
            "method": args.method,
            "calibration": calibrated,
            "num_bytes_before": before,
            "num_bytes": written.num_bytes,
            "bytes_by_dtype": written.bytes_by_dtype,
            "seconds": perf_counter() - begin,
        }
    streams.write((json.dumps(facts) if args.json else _render(facts)) + "\n")
    return 0


def _check(args: argparse.Namespace) -> None:
    if args.calibration and args.method == "rtn":
        raise OptionError("--calibration is text for --method clip, awq or gptq; give one of them")
    if not 0 <= args.seed < MAX_SEED:
        raise OptionError(f"--seed {args.seed} is not valid: give 0 to {MAX_SEED - 1}")


def _calibrate(
    source: Path, out: Path, scheme: Quantization, args: argparse.Namespace
) -> dict[str, Any]:
    """Write ``out``; what it was calibrated on."""
    try:
        from gpt2fast.compress.quantize.directory import DirectoryOptions, quantize_directory
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            f"--method {args.method} needs {error.name}: pip install 'gpt2fast[compress]'"
        ) from None
    from gpt2fast.runners.cpu import check_threads

    if args.num_threads is not None:
        check_threads(args.num_threads)
    options = DirectoryOptions(scheme, args.method, args.calibration, args.seed, args.num_threads)
    with Progress() as progress:
        text = quantize_directory(source, out, options, progress.show)
    return {"text": text.origin, "tokens": text.num_tokens}


def _quantize(
    checkpoint: Checkpoint, out: Path, scheme: Quantization, num_threads: int | None
) -> None:
    from gpt2fast.checkpoint.save import save_quantized
    from gpt2fast.runners import FormatOptions, resolve_format
    from gpt2fast.runners.cpu import CpuRunner

    total = 2 * len(checkpoint.names)
    steps = itertools.count(1)
    with Progress() as progress:
        runner = CpuRunner(
            checkpoint,
            resolve_format(checkpoint, FormatOptions(quantization=scheme), "cpu"),
            num_threads=num_threads,
            num_blocks=1,
            max_batch_tokens=1,
            max_seqs=1,
            loaded=lambda name: progress.show(f"rounding {name}", next(steps), total),
        )
        save_quantized(
            out,
            checkpoint.path,
            checkpoint.config,
            scheme,
            runner.packed_tensors(),
            written=lambda num_bytes: progress.show(f"writing {out}", next(steps), total),
        )


def _render(facts: dict[str, Any]) -> str:
    before, after = facts["num_bytes_before"], facts["num_bytes"]
    parts = ", ".join(f"{kind} {size_text(n)}" for kind, n in facts["bytes_by_dtype"].items())
    return (
        f"{facts['out']}: {size_text(before)} became {size_text(after)} "
        f"({after / before:.2f} of it): {parts}; {_how(facts)}{facts['seconds']:.1f} s"
    )


def _how(facts: dict[str, Any]) -> str:
    if (text := facts["calibration"]) is None:
        return ""
    return f"{facts['method']} on {text['tokens']:,} tokens of {text['text']}; "
