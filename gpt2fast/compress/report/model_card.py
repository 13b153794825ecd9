"""The model card (README.md) of an artifact: what it is, what it cost, and where its limits are."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from gpt2fast.compress.report.markdown import code, code_block, inline

PLOT = "pareto.svg"  # beside the card, where recipes were searched for
_MOST_TENSORS = 60  # of the table; report.json has all
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


def model_card(report: dict[str, Any], bias: str) -> str:
    """Markdown with the metadata that hubs read. ``bias`` is the text on the bias figures."""
    original, artifact = report["original"], report["artifact"]
    quality, speed = report["quality"], report["speed"]
    return "\n".join(
        [
            "---",
            *_base_model(original),
            "library_name: gpt2fast",
            "pipeline_tag: text-generation",
            "tags: [gpt2, compressed]",
            "---",
            "",
            f"# {inline(original['name'])}, compressed",
            "",
            *_provenance(report),
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
            f"{speed['compressed']:.0f} ({speed['speedup']:.2f}x, in rounds {speed['low']:.2f} to "
            f"{speed['high']:.2f}) |",
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


def _base_model(original: dict[str, Any]) -> list[str]:
    """Of what a hub may know; a directory means nothing there. JSON's strings are YAML's, too."""
    name = original["name"]
    known = _HUB_ID.fullmatch(name) and name != "demo" and not Path(name).exists()
    return [f"base_model: {json.dumps(name)}"] if known else []


def _provenance(report: dict[str, Any]) -> list[str]:
    original, versions = report["original"], report["versions"]
    revision = f" at revision {code(original['revision'])}" if original["revision"] else ""
    return [
        f"Made on {report['date']} with gpt2fast {versions['gpt2fast']} (torch "
        f"{versions['torch']}) from {code(original['name'])}{revision}, whose weights have the "
        f"SHA-256 `{original['weights_sha256']}`, by",
        "",
        code_block(report["command"]),
        "",
    ]


def _how_it_was_measured(report: dict[str, Any]) -> list[str]:
    protocol, machine = report["quality"]["protocol"], report["machine"]
    return [
        f"Quality: {protocol['predicted_tokens']:,} predicted tokens in {protocol['windows']} "
        f"windows of {protocol['window_tokens']}, of {inline(protocol['text'])}, which no pass and "
        f"no choice has seen; {_artifacts(report['budget']['verified'])} held against them. "
        f"Speed: {inline(machine['processor'])}, {machine['cpus']} CPUs, both models in turns, "
        f"{report['speed']['rounds']} rounds. `report.json` has everything, also what else was "
        "tried.",
        "",
        *_plot(report),
    ]


def _artifacts(count: int) -> str:
    return "this artifact alone was" if count == 1 else f"{count} artifacts were"


def _plot(report: dict[str, Any]) -> list[str]:
    """Only a search has one."""
    if len(report["search"]) < 2:
        return []
    return [
        f"![loss against speed of what was tried]({PLOT})",
        "",
        "The plot has what was measured while recipes were chosen, on text of its own: its figures "
        "differ a little from those of the table.",
        "",
    ]


def _passes(report: dict[str, Any]) -> list[str]:
    lines = []
    for entry in report["recipe"]["passes"]:
        ((name, options),) = entry.items()
        told = ", ".join(f"{key} = {json.dumps(value)}" for key, value in options.items())
        lines.append(f"* {inline(name)}: {inline(told)}")
    text = report["text"]
    return [
        *lines,
        "",
        f"Passes saw {text['calibration_tokens']:,} tokens of {inline(text['origin'])}; settings "
        f"were chosen on {text['selection_tokens']:,} others.",
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
        rows.append(
            f"| {code(entry['name'])} | {shape} | {inline(entry['format'])} | {entry['bytes']:,} |"
        )
    if len(left) > _MOST_TENSORS:
        rows.append(f"| and {len(left) - _MOST_TENSORS} smaller ones, in report.json | | | |")
    return [*rows, ""]


def _limits(report: dict[str, Any]) -> list[str]:
    return [
        "* What the original cannot do or does wrong, this model does as well. Its licence and its "
        "own card apply.",
        _known_for(report["text"]),
        "* Perplexity is a mean. Rare words and facts lose more than it shows.",
        "* The speed is that of one machine; on another one measure it with `gpt2fast bench`.",
        "",
    ]


def _known_for(text: dict[str, Any]) -> str:
    if text["written_by_the_model"]:
        return (
            "* The loss was measured on text that the model wrote itself. This tells how far the "
            "distributions of the two models are apart, and not what is lost on yours: measure "
            "that with `gpt2fast eval`."
        )
    return (
        f"* The loss is known for text like that of {inline(text['origin'])}. Other text, other "
        "languages and tasks may lose more; `gpt2fast eval` measures it."
    )


def _megabytes(count: int) -> str:
    return f"{count / 1e6:.1f} MB"
