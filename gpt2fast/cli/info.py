"""``gpt2fast info``: what a checkpoint is, what would run it, and how much memory that takes."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from gpt2fast.cli import streams
from gpt2fast.cli.format_options import add_format_options
from gpt2fast.cli.info_report import compression_report, compression_rows
from gpt2fast.errors import OptionError, counted
from gpt2fast.terminal import text_table

if TYPE_CHECKING:
    from gpt2fast.checkpoint import Checkpoint, Export

_EXAMPLES = """\
examples:
  gpt2fast info demo
  gpt2fast info gpt2 --json
  gpt2fast info ./my-model --quantization int8 --kv-cache-dtype int8
"""


def add_parser(subparsers: Any) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "info",
        help="shapes, bytes, flags, and what would run",
        description="Check a checkpoint without loading its weights, and print its shapes, "
        "parameters, bytes, flags and tokenizer, what would run it, and the memory needed.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", metavar="MODEL", help="'demo', a directory, or a hub id")
    add_format_options(parser)
    parser.add_argument("--revision", help="branch, tag or commit of a hub id")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Print the description of ``args.model``."""
    from gpt2fast.checkpoint import Export, open_model
    from gpt2fast.runners import FormatOptions, reject_fixed_options

    with open_model(args.model, revision=args.revision) as opened:
        if isinstance(opened, Export):
            given = FormatOptions(args.dtype, args.quantization, args.kv_cache_dtype)
            reject_fixed_options(opened, given)
            facts, text = describe_export(opened), render_export
        else:
            facts = describe(opened, args.dtype, args.quantization, args.kv_cache_dtype)
            text = render
    streams.write((json.dumps(facts, indent=2) if args.json else text(args.model, facts)) + "\n")
    return 0


def describe(
    checkpoint: Checkpoint, dtype: str, quantization: str | None, kv_cache_dtype: str
) -> dict[str, Any]:
    """Everything ``info`` knows of a checkpoint, ready for JSON. Sizes are in bytes.

    The last three are options of ``LLM``; what it would refuse is refused here.
    """
    from gpt2fast import _C

    try:
        isa = _C.isa()
    except ValueError as error:
        raise OptionError(str(error)) from error
    tokenizer = checkpoint.load_tokenizer()
    return {
        **_shapes(checkpoint),
        "num_parameters": checkpoint.num_parameters,
        "num_bytes": checkpoint.num_bytes,
        "bytes_by_dtype": checkpoint.bytes_by_dtype,
        "tokenizer_size": None if tokenizer is None else tokenizer.get_vocab_size(),
        "runner": "cpu",
        "isa": isa,
        "available_isas": list(_C.available_isas()),
        "memory": _memory(checkpoint, dtype, quantization, kv_cache_dtype),
        "report": compression_report(checkpoint),
    }


def describe_export(export: Export) -> dict[str, Any]:
    """What ``info`` knows of an ONNX export, its report included. Sizes are in bytes. Raises
    CheckpointError where its files are not those that the report is of."""
    from gpt2fast.bench.peers.base import installed

    export.check_sizes()
    tokenizer = export.load_tokenizer()
    return {
        **_shapes(export),
        "num_bytes": export.num_bytes,
        "tokenizer_size": None if tokenizer is None else tokenizer.get_vocab_size(),
        "runner": "onnx",
        "runtime": installed("onnxruntime", "onnxruntime-gpu"),
        "report": export.report,
    }


def _shapes(model: Checkpoint | Export) -> dict[str, Any]:
    config = model.config
    return {
        "path": str(model.path),
        "config": config.to_dict(),
        "head_size": config.head_size,
        "layers": [asdict(shape) for shape in config.layer_shapes],
    }


def _memory(
    checkpoint: Checkpoint, dtype: str, quantization: str | None, kv_cache_dtype: str
) -> dict[str, Any]:
    """What the CPU runner would hold and read."""
    from gpt2fast.quantization.panel_layout import bytes_by_format, bytes_per_step, matrix_layouts
    from gpt2fast.runners import FormatOptions, resolve_format
    from gpt2fast.runners.kv_memory import bytes_per_token
    from gpt2fast.runners.options import KV_CACHE_DTYPES

    form = resolve_format(checkpoint, FormatOptions(dtype, quantization, kv_cache_dtype))
    config, scheme = checkpoint.config, form.quantization
    layouts = matrix_layouts(config, form.dtype, scheme)
    by_format = bytes_by_format(layouts, config)
    kv_token = bytes_per_token(config, form.kv_cache_dtype)
    return {
        "quantization": None if scheme is None else scheme.name,
        "weights": sum(by_format.values()),
        "weights_by_format": by_format,
        "read_per_step": bytes_per_step(layouts, config),
        "kv_cache_dtype": form.kv_cache_dtype,
        "kv_cache_per_token": kv_token,
        "kv_cache_full_context": kv_token * config.n_positions,
        "kv_cache_per_token_by_dtype": {
            name: bytes_per_token(config, name) for name in KV_CACHE_DTYPES if name != "auto"
        },
    }


def render(name: str, facts: dict[str, Any]) -> str:
    """The description for a person, one fact a line."""
    memory, stored = facts["memory"], _parts(facts, "bytes_by_dtype")
    others = [isa for isa in facts["available_isas"] if isa != facts["isa"]]
    rows = {
        **_common_rows(name, facts),
        "parameters": f"{facts['num_parameters']:,}, stored as {stored}",
        "would run": f"{facts['runner']} runner, {facts['isa']} instructions"
        + (f" (this machine also has {', '.join(others)})" if others else ""),
        "weights": f"{size_text(memory['weights'])} in memory "
        f"({_parts(memory, 'weights_by_format')}); a decode step reads "
        f"{size_text(memory['read_per_step'])}",
        "KV cache": f"{memory['kv_cache_dtype']}, {size_text(memory['kv_cache_per_token'])} a "
        f"token, {size_text(memory['kv_cache_full_context'])} for a full context (a token: "
        f"{_parts(memory, 'kv_cache_per_token_by_dtype')})",
        **(compression_rows(facts["report"]) if facts["report"] else {}),
    }
    return text_table(list(rows.items()), "<")


def render_export(name: str, facts: dict[str, Any]) -> str:
    """The description of an export for a person, one fact a line."""
    rows, report = _common_rows(name, facts), facts["report"]
    made, proof = report.get("export", {}), report.get("certificate", {})
    kind = f"{made.get('precision', 'unknown')} for target {made.get('target', 'unknown')}"
    rows["graph"] = f"{kind}, {size_text(facts['num_bytes'])}"
    versions = [f"{name} {version}" for name, version in facts["runtime"].items()]
    rows["would run"] = versions[0] if versions else "nothing yet: pip install 'gpt2fast[onnx]'"
    if {"perplexity", "source_perplexity", "runtime"} <= proof.keys():
        rows["verified"] = (
            f"perplexity {proof['perplexity']:.3f} on its own text (model "
            f"{proof['source_perplexity']:.3f}) in {proof['runtime']}"
        )
    return text_table(list(rows.items()), "<")


def _common_rows(name: str, facts: dict[str, Any]) -> dict[str, str]:
    config, size = facts["config"], facts["tokenizer_size"]
    return {
        "model": f"{name} ({facts['path']})",
        "shape": f"{counted(config['n_layer'], 'layer')}, width {config['n_embd']}, "
        f"{_heads(facts)} of {facts['head_size']}, MLP {_range(facts['layers'], 'n_inner')}",
        "vocabulary": f"{counted(config['vocab_size'], 'token')}, end of text "
        f"{'none' if config['eos_token_id'] is None else config['eos_token_id']}",
        "context": counted(config["n_positions"], "token"),
        "activation": f"{config['activation_function']}, "
        f"layer_norm_epsilon {config['layer_norm_epsilon']:g}",
        "flags": _flags(config),
        "tokenizer": "none: only token ids can be given"
        if size is None
        else counted(size, "token"),
    }


def _heads(facts: dict[str, Any]) -> str:
    full, found = str(facts["config"]["n_head"]), _range(facts["layers"], "n_head")
    return counted(int(full), "head") if found == full else f"{found} of {full} heads"


def _range(layers: list[dict[str, int]], name: str) -> str:
    """The value that all layers have, or the least and the most."""
    values = [layer[name] for layer in layers]
    least, most = min(values), max(values)
    return str(least) if least == most else f"{least} to {most}"


def _parts(facts: dict[str, Any], name: str) -> str:
    return ", ".join(f"{kind} {size_text(count)}" for kind, count in facts[name].items())


def _flags(config: dict[str, Any]) -> str:
    names = (
        "tie_word_embeddings",
        "scale_attn_weights",
        "scale_attn_by_inverse_layer_idx",
        "reorder_and_upcast_attn",
    )
    return ", ".join(f"{name} {'on' if config[name] else 'off'}" for name in names)


def size_text(count: float) -> str:
    """A number of bytes for a person."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"
