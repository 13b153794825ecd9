"""From samples to records: one flat row a case, with units in the names."""

from __future__ import annotations

import csv
import statistics
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from gpt2fast.bench.costs import attention_flops, decode_flops, prefill_flops
from gpt2fast.bench.grid import Case
from gpt2fast.bench.limits import machine
from gpt2fast.bench.options import Plan
from gpt2fast.bench.output import RECORD
from gpt2fast.bench.pool import Starts, worker_key
from gpt2fast.bench.run import Measured, Sample, options_record
from gpt2fast.files.atomic import staged_file
from gpt2fast.files.json_file import write_json

Row = dict[str, Any]

# Kept in rows.json alone: a list has no place in a table.
LISTS = ("step_ms", "versions")

_NOT_RUN = ("not run", "interrupted before its first round")


def make_record(plan: Plan, measured: Measured, command: str, date: str) -> dict[str, Any]:
    """Everything of one benchmark, ready for JSON."""
    rows = [_row(plan, measured, case) for case in plan.cases]
    _add_ratios(plan, measured, rows)
    bandwidths = [s.bandwidth for samples in measured.samples.values() for s in samples]
    return {
        "command": command,
        "date": date,
        "gpt2fast": _version(),
        "machine": machine(),
        "options": options_record(plan),
        "baseline": None if plan.baseline is None else plan.baseline.name,
        "text": {label: text.facts for label, text in plan.texts.items()},
        "interrupted": measured.interrupted,
        "seconds": round(measured.seconds, 1),
        "limits": {
            "read_bandwidth_gb_s": _spread(bandwidths, 1e-9) if bandwidths else None,
            "arithmetic_peak_gflop_s": [
                {"format": fmt, "threads": threads, **_spread(values, 1e-9)}
                for (fmt, threads), values in measured.peaks.items()
            ],
        },
        "rows": rows,
    }


def write_record(record: dict[str, Any], out: Path) -> list[Path]:
    """``rows.json`` and ``rows.csv`` in ``out``, which is made. Raises OptionError where one cannot
    be written."""
    as_json, as_csv = (out / name for name in RECORD)
    write_json(as_json, record)
    names = [name for name in _columns(record["rows"]) if name not in LISTS]
    with staged_file(as_csv) as stage, stage.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(record["rows"])
    return [as_json, as_csv]


def _columns(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row))


def _row(plan: Plan, measured: Measured, case: Case) -> Row:
    variant = case.variant
    row: Row = {
        "model": variant.model.label,
        "system": variant.system,
        "format": variant.format,
        "kv_cache_dtype": variant.kv_cache_dtype,
        "threads": case.threads,
        "batch": case.batch,
        "prompt_tokens": case.prompt_tokens,
        "new_tokens": case.new_tokens,
        "status": "ok",
        "reason": "",
    }
    probe = measured.probes.get(variant)
    samples = measured.samples.get(case, [])
    if probe is not None and probe.status != "ok":
        row["status"], row["reason"] = probe.status, probe.reason
    elif case in measured.failures:
        row["status"], row["reason"] = measured.failures[case]
    elif not samples or probe is None:
        row["status"], row["reason"] = _NOT_RUN
    else:
        starts = measured.starts[worker_key(case)]
        row |= _times(case, samples) | _fractions(case, samples, starts)
        row |= _peak_fractions(case, samples, measured)
        row |= _memory_and_starts(samples, starts)
        row |= {"agreement": probe.agreement, "agreement_of": probe.agreement_of}
        row |= {name: probe.quality.get(name) for name in ("perplexity", "bits_per_byte")}
        row |= {"versions": probe.versions, "step_ms": _by_position(samples)}
    return row


def _times(case: Case, samples: Sequence[Sample]) -> Row:
    steps = np.concatenate([np.diff(sample.times) for sample in samples]) * 1e3
    row: Row = {"rounds": len(samples)}
    row |= _summary("ttft_ms", [sample.times[0] * 1e3 for sample in samples])
    row |= _summary("prefill_tok_s", [_prefill_speed(case, sample) for sample in samples])
    row |= {f"itl_ms_p{q}": float(np.percentile(steps, q)) for q in (50, 90, 99)}
    row |= _summary("decode_tok_s", [decode_speed(case, sample) for sample in samples])
    row["noisy_rounds"] = sum(not sample.was_idle_after for sample in samples)
    return row


def _fractions(case: Case, samples: Sequence[Sample], starts: Starts) -> Row:
    config = case.variant.model.config
    read = bytes_per_step(case, starts)
    flops = case.batch * decode_flops(config, case.mid_context)
    prompt_flops = case.batch * prefill_flops(config, case.prompt_tokens)
    step = statistics.median(_median_step(sample) for sample in samples)
    first = statistics.median(sample.times[0] for sample in samples)
    bandwidth = statistics.median(sample.bandwidth for sample in samples)
    row: Row = {
        "weight_bytes": starts.weight_bytes,
        "kv_bytes_per_token": starts.kv_bytes_per_token,
        "bytes_per_step": read,
        "bandwidth_gb_s": bandwidth / 1e9,
        "decode_gb_s": read and read / step / 1e9,
        "decode_bandwidth_fraction": read
        and statistics.median(read / _median_step(s) / s.bandwidth for s in samples),
        "decode_gflop_s": flops / step / 1e9,
        "prefill_gflop_s": prompt_flops / first / 1e9,
        "decode_flops_per_step": flops,
    }
    return row


def _peak_fractions(case: Case, samples: Sequence[Sample], measured: Measured) -> Row:
    """The least time that the prompt's operations take, each at the peak of its own arithmetic,
    over the time that they took: attention is not computed in the format of the weights."""
    config, variant = case.variant.model.config, case.variant
    peak = _peak(measured, variant.format, case.threads)
    over_cache = "int8" if variant.kv_cache_dtype == "int8" else "float32"
    attention_peak = _peak(measured, over_cache, case.threads)
    if peak is None or attention_peak is None:
        return {"peak_gflop_s": None, "prefill_peak_fraction": None}
    attention = attention_flops(config, case.prompt_tokens)
    products = prefill_flops(config, case.prompt_tokens) - attention
    least = case.batch * (products / peak + attention / attention_peak)
    first = statistics.median(sample.times[0] for sample in samples)
    return {"peak_gflop_s": peak / 1e9, "prefill_peak_fraction": least / first}


def _peak(measured: Measured, fmt: str, threads: int) -> float | None:
    peaks = measured.peaks.get((fmt, threads))
    return statistics.median(peaks) if peaks else None


def _memory_and_starts(samples: Sequence[Sample], starts: Starts) -> Row:
    peak = max(starts.load_peak, *(sample.peak_memory for sample in samples))
    return {
        "peak_memory_mb": peak / 1e6,
        **_summary("load_s", starts.load_seconds),
        **_summary("cold_start_s", starts.cold_seconds),
        "starts": len(starts.cold_seconds),
    }


def bytes_per_step(case: Case, starts: Starts) -> float | None:
    """Bytes that the decode step in the middle of the run must read; None where not known."""
    if starts.weight_bytes is None or starts.kv_bytes_per_token is None:
        return None
    return starts.weight_bytes + case.batch * starts.kv_bytes_per_token * case.mid_context


def decode_speed(case: Case, sample: Sample) -> float:
    """Tokens per second of the whole batch, the first token left out."""
    return case.batch * (case.new_tokens - 1) / (sample.times[-1] - sample.times[0])


def _prefill_speed(case: Case, sample: Sample) -> float:
    return case.batch * case.prompt_tokens / sample.times[0]


def _median_step(sample: Sample) -> float:
    return float(np.median(np.diff(sample.times)))


def _by_position(samples: Sequence[Sample]) -> list[float]:
    """Milliseconds of step 1, 2, ..., each the median over the rounds."""
    steps = np.median([np.diff(sample.times) for sample in samples], axis=0) * 1e3
    return [round(float(step), 4) for step in steps]


def _add_ratios(plan: Plan, measured: Measured, rows: Sequence[Row]) -> None:
    """Speed over the baseline's at the same point: medians of ratios taken within each round."""
    chosen = plan.baseline
    if chosen is None:
        return
    bases = {}
    for case in plan.cases:
        same = (case.variant.system, case.variant.format) == (chosen.system, chosen.format)
        if same and case.variant.kv_cache_dtype == chosen.kv_cache_dtype:
            bases[case.point] = case
    for case, row in zip(plan.cases, rows, strict=True):
        base = bases.get(case.point)
        if row["status"] != "ok" or base is None:
            continue
        for name, speed in (("decode", decode_speed), ("prefill", _prefill_speed)):
            ratios = _paired(measured, case, base, speed)
            row |= _summary(f"{name}_ratio", ratios) if ratios else {}


def _paired(
    measured: Measured, case: Case, base: Case, speed: Callable[[Case, Sample], float]
) -> list[float]:
    if base in measured.failures:
        return []
    theirs = {sample.round: speed(base, sample) for sample in measured.samples.get(base, [])}
    mine = measured.samples[case]
    return [speed(case, s) / theirs[s.round] for s in mine if s.round in theirs]


def _summary(name: str, values: Sequence[float]) -> Row:
    return {
        name: statistics.median(values),
        f"{name}_min": min(values),
        f"{name}_max": max(values),
    }


def _spread(values: Sequence[float], scale: float) -> dict[str, float]:
    scaled = [value * scale for value in values]
    return {"median": statistics.median(scaled), "min": min(scaled), "max": max(scaled)}


def _version() -> str:
    try:
        return version("gpt2fast")
    except PackageNotFoundError:  # run from a source tree that was never installed
        return "(not installed)"
