"""What ``gpt2fast info`` tells of the report that ``gpt2fast compress`` leaves beside a model."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from gpt2fast.errors import CheckpointError, counted

if TYPE_CHECKING:
    from gpt2fast.checkpoint import Checkpoint

_FILE = "report.json"
_FIELDS = {"original", "artifact", "quality", "speed", "recipe", "text"}


def compression_report(checkpoint: Checkpoint) -> dict[str, Any] | None:
    """The report of a compressed model; None where there is none, or it is of something else."""
    from gpt2fast.files.json_file import read_json

    file = checkpoint.path / _FILE
    if not file.is_file():
        return None
    try:
        report = read_json(file)
    except CheckpointError as error:
        warnings.warn(str(error), stacklevel=1)
        return None
    if not isinstance(report, dict) or not report.keys() >= _FIELDS:
        return None  # of another tool
    try:
        compression_rows(report)
        size = int(report["artifact"]["bytes"])
    except (KeyError, TypeError, ValueError, AttributeError):
        warnings.warn(f"{file}: is damaged; its figures are left out", stacklevel=1)
        return None
    if size != checkpoint.num_bytes:
        warnings.warn(
            f"{file}: is of {size} bytes of weights, and here are {checkpoint.num_bytes}; its "
            "figures are of another model and left out",
            stacklevel=1,
        )
        return None
    return report


def compression_rows(report: dict[str, Any]) -> dict[str, str]:
    """What was verified of a compressed model, one fact a row."""
    original, artifact = report["original"], report["artifact"]
    quality, speed = report["quality"], report["speed"]
    passes = " + ".join(name for entry in report["recipe"]["passes"] for name in entry)
    tokens = counted(quality["protocol"]["predicted_tokens"], "token")
    return {
        "compressed": f"{original['name']} by {passes}: {_megabytes(original)} to "
        f"{_megabytes(artifact)}",
        "verified": f"perplexity {quality['perplexity_before']:.3f} to "
        f"{quality['perplexity_after']:.3f}, {quality['percent']:+.2f} % (95 % interval "
        f"{quality['percent_low']:+.2f} to {quality['percent_high']:+.2f} %) on {tokens} of "
        f"{report['text']['origin']}",
        "speed": f"{speed['speedup']:.2f}x the original in float32 ({speed['low']:.2f} to "
        f"{speed['high']:.2f}), decoding at batch 1 where it was measured",
    }


def _megabytes(described: dict[str, Any]) -> str:
    return f"{described['bytes'] / 1e6:.1f} MB"
