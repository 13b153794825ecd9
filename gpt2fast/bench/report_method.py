"""The report's last section: what each figure means, and with what it was made."""

from __future__ import annotations

import shlex
from typing import Any

from gpt2fast.bench.table import text_note

_ENTRIES = (
    (
        "Rounds",
        "Every system runs once a round, in an order that rotates; figures are medians over the "
        "rounds, and ratios are taken within a round before their median.",
    ),
    (
        "First token",
        "From the call to the first token of every sequence. Its tokens a second count the "
        "prompt, its GFLOP/s the useful operations: every matrix once a token, attention, and the "
        "head for the last token.",
    ),
    (
        "Between tokens",
        "Percentiles of the time between two steps, over all steps of all rounds.",
    ),
    (
        "Memory read",
        "Bytes that a step must read, the weights as stored and the cache at the middle of the "
        "run, over the median step. Its limit is the read bandwidth measured before and after "
        "each run with as many threads; a model that fits in the processor's cache can exceed it.",
    ),
    (
        "Cost",
        "Peak memory is the largest resident set of the process, mapped files included. Load is "
        "from files in the page cache to ready; cold start from the start of the process to the "
        "first token, the import of libraries included.",
    ),
    (
        "Greedy",
        "Tokens equal to those of gpt2fast in float32 before the first that differs, of a short "
        "continuation. A system whose widest format disagrees is not timed at all.",
    ),
)


def method(record: dict[str, Any]) -> list[tuple[str, str]]:
    """Definitions, protocol and versions, each with its term."""
    entries = list(_ENTRIES)
    if record["text"]:
        lines = ". ".join(text_note(label, text) for label, text in record["text"].items())
        entries.append(("Perplexity", f"{lines}. Every token but the first is predicted once."))
    if any(row.get("noisy_rounds") for row in record["rows"]):
        entries.append(("Noise", "Some systems kept a core busy after their runs; see rows.json."))
    return [*entries, ("Versions", _versions(record))]


def _versions(record: dict[str, Any]) -> str:
    found: dict[str, str] = {"gpt2fast": record["gpt2fast"]}
    for row in record["rows"]:
        found |= row.get("versions", {})
    return ", ".join(f"{name} {number}" for name, number in sorted(found.items()))


def command_line(arguments: list[str]) -> str:
    """The command as it can be typed again."""
    return shlex.join(["gpt2fast", *arguments])
