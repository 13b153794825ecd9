"""``gpt2fast info``: what a checkpoint is, what would run it, and how much memory that takes."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from gpt2fast.cli import streams
from gpt2fast.errors import OptionError

if TYPE_CHECKING:
    from gpt2fast.checkpoint import Checkpoint

_EXAMPLES = """\
examples:
  gpt2fast info demo
  gpt2fast info gpt2 --json
  gpt2fast info ./my-model
"""

_FLOAT32_BYTES = 4  # of a weight and of a cached value in the CPU runner


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
    parser.add_argument("--revision", help="branch, tag or commit of a hub id")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Print the description of ``args.model``."""
    from gpt2fast.checkpoint import open_checkpoint

    with open_checkpoint(args.model, revision=args.revision) as checkpoint:
        facts = describe(checkpoint)
    streams.write((json.dumps(facts, indent=2) if args.json else render(args.model, facts)) + "\n")
    return 0


def describe(checkpoint: Checkpoint) -> dict[str, Any]:
    """Everything ``info`` knows of a checkpoint, ready for JSON. Sizes are in bytes."""
    from gpt2fast import _C

    try:
        isa = _C.isa()
    except ValueError as error:
        raise OptionError(str(error)) from error
    config = checkpoint.config
    tokenizer = checkpoint.load_tokenizer()
    # A key and a value of the model's width, in every layer.
    kv_token = 2 * config.n_layer * config.n_embd * _FLOAT32_BYTES
    return {
        "path": str(checkpoint.path),
        "config": config.to_dict(),
        "head_size": config.head_size,
        "num_parameters": checkpoint.num_parameters,
        "num_bytes": checkpoint.num_bytes,
        "bytes_by_dtype": checkpoint.bytes_by_dtype,
        "tokenizer_size": None if tokenizer is None else tokenizer.get_vocab_size(),
        "runner": "cpu",
        "isa": isa,
        "available_isas": list(_C.available_isas()),
        "memory": {
            "weights": checkpoint.num_parameters * _FLOAT32_BYTES,
            "kv_cache_per_token": kv_token,
            "kv_cache_full_context": kv_token * config.n_positions,
        },
    }


def render(name: str, facts: dict[str, Any]) -> str:
    """The description for a person, one fact a line."""
    config, memory = facts["config"], facts["memory"]
    stored = ", ".join(f"{kind} {_size(n)}" for kind, n in facts["bytes_by_dtype"].items())
    size = facts["tokenizer_size"]
    others = [isa for isa in facts["available_isas"] if isa != facts["isa"]]
    rows = {
        "model": f"{name} ({facts['path']})",
        "shape": f"{config['n_layer']} layers, width {config['n_embd']}, {config['n_head']} heads "
        f"of {facts['head_size']}, MLP {config['n_inner']}",
        "vocabulary": f"{config['vocab_size']} tokens, end of text "
        f"{'none' if config['eos_token_id'] is None else config['eos_token_id']}",
        "context": f"{config['n_positions']} tokens",
        "activation": f"{config['activation_function']}, "
        f"layer_norm_epsilon {config['layer_norm_epsilon']:g}",
        "flags": _flags(config),
        "parameters": f"{facts['num_parameters']:,}, stored as {stored}",
        "tokenizer": "none: only token ids can be given" if size is None else f"{size} tokens",
        "would run": f"{facts['runner']} runner, {facts['isa']} instructions"
        + (f" (this machine also has {', '.join(others)})" if others else ""),
        "memory": f"{_size(memory['weights'])} of weights in float32; KV cache "
        f"{_size(memory['kv_cache_per_token'])} a token, "
        f"{_size(memory['kv_cache_full_context'])} for a full context",
    }
    return "\n".join(f"{label:<12}{text}" for label, text in rows.items())


def _flags(config: dict[str, Any]) -> str:
    names = (
        "tie_word_embeddings",
        "scale_attn_weights",
        "scale_attn_by_inverse_layer_idx",
        "reorder_and_upcast_attn",
    )
    return ", ".join(f"{name} {'on' if config[name] else 'off'}" for name in names)


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"
