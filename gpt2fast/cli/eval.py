"""``gpt2fast eval``: quality with its protocol and interval, alone or beside a reference."""

from __future__ import annotations

import argparse
import json
from typing import Any

from gpt2fast.cli import streams
from gpt2fast.cli.format_options import add_format_options

_EXAMPLES = """\
examples:
  gpt2fast eval demo --text held-out.txt
  gpt2fast eval demo --quantization int4 --reference demo --text held-out.txt
  gpt2fast eval gpt2 --text wiki.test.raw --protocol transformers --detokenizer wikitext-rows
  gpt2fast eval gpt2 --text wiki.test.raw --protocol lm-eval --detokenizer wikitext --json
"""


def add_parser(subparsers: Any) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "eval",
        help="perplexity, agreement with a reference",
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
    add("--text", metavar="FILE", help="perplexity on this text")
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
    add("--seed", type=int, default=0, help="of the bootstrap (0)")


def run(args: argparse.Namespace) -> int:
    """Measure; print the measures or one JSON object."""
    from gpt2fast.cli.progress import Progress
    from gpt2fast.evaluate.report import evaluate

    with Progress() as progress:
        report = evaluate(
            args.model,
            reference=args.reference,
            text=args.text,
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


def render(report: dict[str, Any]) -> str:
    """The report for a person, one fact a line."""
    rows: list[tuple[str, str]] = [("model", _model(report["model"]))]
    if "reference" in report:
        rows.append(("reference", _model(report["reference"])))
    if "perplexity" in report:
        rows += _text_rows(report)
    return "\n".join(f"{label:<18}{text}" for label, text in rows)


def _model(facts: dict[str, Any]) -> str:
    options = [f"{key} {value}" for key, value in facts.items() if key != "name"]
    return f"{facts['name']} ({', '.join(options)})" if options else str(facts["name"])


def _text_rows(report: dict[str, Any]) -> list[tuple[str, str]]:
    found = report["perplexity"]
    rows = [
        ("text", f"{found['file']} (sha256 {found['sha256'][:12]})"),
        (
            "protocol",
            f"{found['protocol']}, detokenizer {found['detokenizer']}, context "
            f"{found['context']}, stride {found['stride']}: {found['tokens']} tokens, "
            f"{found['bytes']} bytes, {found['words']} words in {found['windows']} windows",
        ),
    ]
    for name, unit in _MEASURES.items():
        if name in found:
            rows.append((unit, _with_reference(report, name)))
    if "comparison" in report:
        lost, kl, top = report["comparison"], report["kl"], report["top1_agreement"]
        percent = (lost["percent"], lost["percent_low"], lost["percent_high"])
        same = [None if top[key] is None else 100 * top[key] for key in ("mean", "low", "high")]
        rows += [
            ("perplexity change", _bounds(*percent, "+.3f", " %")),
            ("nats a token", _bounds(lost["nats_difference"], lost["low"], lost["high"], "+.5f")),
            ("KL(ref || model)", _bounds(kl["mean"], kl["low"], kl["high"], ".5f", " nats")),
            ("same favourite", _bounds(same[0], same[1], same[2], ".2f", " %")),
        ]
    return rows


_MEASURES = {
    "perplexity": "perplexity",
    "bits_per_byte": "bits a byte",
    "word_perplexity": "word perplexity",
    "byte_perplexity": "byte perplexity",
}


def _with_reference(report: dict[str, Any], name: str) -> str:
    found = report["perplexity"]
    low, high = found["interval"][name] or (None, None)
    text = _bounds(found[name], low, high, ".4f")
    if "reference_perplexity" in report:
        text += f"; reference {report['reference_perplexity'][name]:.4f}"
    return text


def _bounds(
    value: float | None, low: float | None, high: float | None, form: str, unit: str = ""
) -> str:
    """A figure with its interval."""
    shown = "out of range" if value is None else f"{value:{form}}{unit}"
    if low is None or high is None:
        return f"{shown} (too few windows for an interval)"
    return f"{shown} [{low:{form}}, {high:{form}}]"
