"""The model card (README.md) of an artifact: what it is, what it cost, and where its limits are."""

from __future__ import annotations

import json
from typing import Any

_MOST_TENSORS = 60  # of the table; report.json has all


def model_card(report: dict[str, Any], bias: str) -> str:
    """Markdown with the metadata that hubs read. ``bias`` is the text on the bias figures."""
    original, artifact = report["original"], report["artifact"]
    quality, speed = report["quality"], report["speed"]
    return "\n".join(
        [
            "---",
            f"base_model: {json.dumps(original['name'])}",
            "library_name: gpt2fast",
            "pipeline_tag: text-generation",
            "tags: [gpt2, compressed]",
            "---",
            "",
            f"# {original['name']}, compressed",
            "",
            f"Made by gpt2fast on {report['date']} from `{original['name']}` "
            f"(SHA-256 of its weights: `{original['weights_sha256'][:16]}…`).",
            "",
            "    from gpt2fast import LLM",
            '    llm = LLM("this directory")',
            "",
            "| | original | compressed |",
            "|---|---|---|",
            f"| perplexity | {quality['perplexity_before']:.3f} | "
            f"{quality['perplexity_after']:.3f} ({quality['percent']:+.2f} %, 95 % interval "
            f"{quality['percent_low']:+.2f} to {quality['percent_high']:+.2f} %) |",
            f"| same most likely token | | {100 * quality['top1_agreement']:.1f} % |",
            f"| KL divergence, nats a token | | {quality['kl_nats_per_token']:.4f} |",
            f"| weights as stored | {_megabytes(original['bytes'])} | "
            f"{_megabytes(artifact['bytes'])} |",
            f"| parameters | {original['parameters']:,} | {artifact['parameters']:,} |",
            f"| tokens a second, batch 1 (the original in float32) | {speed['original']:.0f} | "
            f"{speed['compressed']:.0f} ({speed['speedup']:.2f}x) |",
            "",
            *_how_it_was_measured(report),
            "## How it was made",
            "",
            *_passes(report),
            "## What is not compressed",
            "",
            *_coverage(report["coverage"]),
            "## Bias",
            "",
            bias,
            "",
            "## Limits",
            "",
            *_limits(report),
        ]
    )


def _how_it_was_measured(report: dict[str, Any]) -> list[str]:
    protocol, machine = report["quality"]["protocol"], report["machine"]
    return [
        f"Quality: {protocol['predicted_tokens']:,} tokens in {protocol['windows']} windows of "
        f"{protocol['window_tokens']}, from {protocol['text']}, that no pass saw; "
        f"{report['budget']['verified']} artifact(s) were held against them. "
        f"Speed: {machine['processor']}, {machine['cpus']} CPUs, both models in turns, "
        f"{report['speed']['rounds']} rounds. `report.json` has everything, also what else was "
        "tried.",
        "",
    ]


def _passes(report: dict[str, Any]) -> list[str]:
    lines = []
    for entry in report["recipe"]["passes"]:
        ((name, options),) = entry.items()
        told = ", ".join(f"{key} = {json.dumps(value)}" for key, value in options.items())
        lines.append(f"* {name}: {told}")
    text = report["text"]
    return [
        *lines,
        "",
        f"Passes saw {text['calibration_tokens']:,} tokens from {text['origin']}; settings were "
        f"chosen on {text['selection_tokens']:,} others.",
        "",
    ]


def _coverage(coverage: dict[str, Any]) -> list[str]:
    left = coverage["uncompressed"]
    total = coverage["compressed_bytes"] + coverage["uncompressed_bytes"]
    rows = [
        f"{len(left)} tensors, {_megabytes(coverage['uncompressed_bytes'])} of "
        f"{_megabytes(total)}:",
        "",
        "| tensor | shape | stored as | bytes |",
        "|---|---|---|---|",
    ]
    largest = sorted(left, key=lambda entry: -entry["bytes"])
    for entry in largest[:_MOST_TENSORS]:
        shape = " x ".join(map(str, entry["shape"])) or "one number"
        rows.append(f"| `{entry['name']}` | {shape} | {entry['format']} | {entry['bytes']:,} |")
    if len(left) > _MOST_TENSORS:
        rows.append(f"| and {len(left) - _MOST_TENSORS} smaller ones, in report.json | | | |")
    return [*rows, ""]


def _limits(report: dict[str, Any]) -> list[str]:
    origin = report["text"]["origin"]
    return [
        "* What the original cannot do or does wrong, this model does as well. Its licence and its "
        "own card apply.",
        f"* The loss is known for text like that from {origin}. Other text, other languages and "
        "tasks may lose more; `gpt2fast eval` measures it.",
        "* Perplexity is a mean. Rare words and facts lose more than it shows.",
        "* The speed is that of one machine; on another one measure it with `gpt2fast bench`.",
        "",
    ]


def _megabytes(count: int) -> str:
    return f"{count / 1e6:.1f} MB"
