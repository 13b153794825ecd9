"""The options that choose what weights and cache are kept in, shared by several subcommands."""

from __future__ import annotations

from typing import Any


def add_format_options(parser: Any) -> None:
    """Add --dtype, --quantization and --kv-cache-dtype, named as the arguments of ``LLM``."""
    parser.add_argument(
        "--dtype", default="auto", help="of the weights: auto, float32, bfloat16 (torch: float16)"
    )
    parser.add_argument(
        "--quantization",
        metavar="SCHEME",
        help="int8, int4, int3, or with a group size of 32, 64 or 128, such as int4-g32; a "
        "quantized MODEL needs none",
    )
    parser.add_argument("--kv-cache-dtype", default="auto", help="auto, float32, bfloat16 or int8")
