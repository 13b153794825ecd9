"""The artifact as saved, on text that no pass and no choice has seen."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpt2fast.compress.budget import Measured
from gpt2fast.compress.calibration.splits import Texts
from gpt2fast.compress.progress import ProgressCallback
from gpt2fast.compress.search.measure import (
    Speed,
    as_windows,
    compare,
    counted,
    measure_speed,
)
from gpt2fast.engine.llm import LLM
from gpt2fast.evaluate import Comparison, compare_logits

ROUNDS = 7


@dataclass(frozen=True)
class Verification:
    """Quality and speed of an artifact beside the original."""

    comparison: Comparison
    quality: dict[str, Any]
    speed: Speed


def verify(original: LLM, compressed: LLM, texts: Texts, say: ProgressCallback) -> Verification:
    """Compare both on the part of the text that was set aside, and time them in turns."""
    rows = texts.parts["verification"]
    step = counted(say, "both on the text set aside", len(rows))
    measured = compare_logits(original.logits, compressed.logits, as_windows(rows), step)
    before, after = measured.reference_nats, measured.nats
    comparison = compare(before, after, rows)
    quality = {
        "protocol": {
            "text": texts.origin,
            "windows": len(rows),
            "window_tokens": rows.shape[1],
            "predicted_tokens": int(rows[:, 1:].size),
            "denominator": "predicted tokens, all of a window but its first",
            "interval": "95 %, paired bootstrap over windows",
        },
        "perplexity_before": math.exp(float(np.mean(before))),
        "perplexity_after": math.exp(float(np.mean(after))),
        "percent": comparison.percent,
        "percent_low": comparison.percent_low,
        "percent_high": comparison.percent_high,
        "kl_nats_per_token": float(np.mean(measured.kl)),
        "top1_agreement": float(np.mean(measured.agrees)),
    }
    say("measuring the speed")
    return Verification(comparison, quality, measure_speed(original, compressed, rounds=ROUNDS))


def measured_of(verification: Verification, num_bytes: int) -> Measured:
    """What a budget is held against."""
    found = verification.comparison
    return Measured(
        found.percent,
        found.percent_low,
        found.percent_high,
        verification.speed.speedup,
        num_bytes,
    )
