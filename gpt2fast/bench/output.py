"""The files of a result, which never take the place of another result's unasked."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from gpt2fast.errors import OptionError

RECORD = ("rows.json", "rows.csv")
REPORT = "report.html"
CHARTS = ("latency_context", "throughput_batch", "quality_latency")
CHART_SUFFIXES = ("png", "svg")
FILES = (*RECORD, REPORT, *(f"{chart}.{suffix}" for chart in CHARTS for suffix in CHART_SUFFIXES))


def check_out(out: Path, models: Iterable[Path], overwrite: bool) -> None:
    """Raise OptionError where ``out`` has a result that may not be replaced, or lies in one of the
    ``models``, which are directories."""
    place = out.resolve()
    for model in models:
        if place == model.resolve() or model.resolve() in place.parents:
            raise OptionError(f"--out {out} lies in the model's own directory; give another one")
    found = [name for name in FILES if os.path.lexists(out / name)]
    if found and not overwrite:
        raise OptionError(
            f"--out {out} has a result already ({', '.join(found[:3])}); give another directory, "
            "or --overwrite to replace it"
        )
