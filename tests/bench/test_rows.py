"""Statistics, charts and files from samples whose answers can be worked out by hand."""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from bench.records import CONFIG, fail_second, measure, record_of, sample

from gpt2fast.bench import table
from gpt2fast.bench.charts import make_charts
from gpt2fast.bench.costs import attention_flops, prefill_flops
from gpt2fast.bench.pool import worker_key
from gpt2fast.bench.probe import agreement
from gpt2fast.bench.rows import write_record


def test_figures_of_a_row() -> None:
    mine, theirs = record_of(*measure())["rows"]
    assert mine["ttft_ms"] == pytest.approx(20)
    assert (mine["ttft_ms_min"], mine["ttft_ms_max"]) == pytest.approx((10, 30))
    assert mine["prefill_tok_s"] == pytest.approx(10 / 0.020)
    assert mine["itl_ms_p50"] == pytest.approx(2)
    assert mine["itl_ms_p99"] == pytest.approx(3)
    assert mine["decode_tok_s"] == pytest.approx(500)
    assert (mine["decode_tok_s_min"], mine["decode_tok_s_max"]) == pytest.approx((1000 / 3, 1000))
    # 1,000 bytes of weights and 4 for each of 10 + 101 / 2 cached tokens, in 2 ms, of 1 GB/s.
    assert mine["bytes_per_step"] == 1000 + 4 * 60.5
    assert mine["decode_gb_s"] == pytest.approx(1242 / 2e-3 / 1e9)
    assert mine["decode_bandwidth_fraction"] == pytest.approx(1242 / 2e-3 / 1e9)
    assert mine["peak_gflop_s"] == pytest.approx(2)
    assert mine["prefill_peak_fraction"] == pytest.approx(mine["prefill_gflop_s"] / 2)
    assert theirs["peak_gflop_s"] is None
    assert theirs["prefill_peak_fraction"] is None
    assert (mine["load_s"], mine["cold_start_s"]) == (0.2, 2.0)
    assert mine["peak_memory_mb"] == pytest.approx(2.000002)
    assert mine["step_ms"] == pytest.approx([2.0] * 100)


def test_the_peak_of_attention_is_that_of_its_own_arithmetic() -> None:
    plan, measured = measure()
    measured.peaks["int8", 2] = [4e9]
    theirs = record_of(plan, measured)["rows"][1]
    attention = attention_flops(CONFIG, 10)
    products = prefill_flops(CONFIG, 10) - attention
    assert attention > 0
    first = 0.040
    assert theirs["prefill_peak_fraction"] == pytest.approx(
        (products / 4e9 + attention / 2e9) / first
    )
    # Without a measured peak for either of the two there is no fraction.
    del measured.peaks["float32", 2]
    assert record_of(plan, measured)["rows"][1]["prefill_peak_fraction"] is None


RESULTS = Path(__file__).resolve().parents[2] / "benchmarks" / "results"


@pytest.mark.parametrize(
    "name", ["batch", "context", "decode", "medium", "onnx", "onnx-context", "prefill", "xl"]
)
def test_what_is_committed_was_held_against_peaks_that_can_be(name: str) -> None:
    record = json.loads((RESULTS / f"{name}.json").read_text())
    peaks = {peak["format"]: peak["median"] for peak in record["limits"]["arithmetic_peak_gflop_s"]}
    # Four 8-bit products for one of float32 are the most that an instruction has.
    assert max(peaks.values()) <= 4.2 * peaks["float32"]
    for row in record["rows"]:
        if row.get("peak_gflop_s"):
            assert row["peak_gflop_s"] == pytest.approx(peaks[row["format"]])
            assert row["prefill_peak_fraction"] <= 1


def test_an_int8_cache_is_held_against_the_peak_of_int8() -> None:
    plan, measured = measure()
    case = dataclasses.replace(
        plan.cases[0], variant=dataclasses.replace(plan.cases[0].variant, kv_cache_dtype="int8")
    )
    measured.samples[case] = measured.samples[plan.cases[0]]
    measured.probes[case.variant] = measured.probes[plan.cases[0].variant]
    measured.starts[worker_key(case)] = measured.starts[worker_key(plan.cases[0])]
    measured.peaks["int8", 2] = [4e9]
    row = record_of(dataclasses.replace(plan, cases=(case,), baseline=None), measured)["rows"][0]
    attention = attention_flops(CONFIG, 10)
    products = prefill_flops(CONFIG, 10) - attention
    assert row["prefill_peak_fraction"] == pytest.approx((products / 2e9 + attention / 4e9) / 0.020)


def test_ratios_are_paired_within_rounds() -> None:
    plan, measured = measure()
    mine, theirs = record_of(plan, measured)["rows"]
    assert mine["decode_ratio"] == 1
    for name in ("decode_ratio", "decode_ratio_min", "decode_ratio_max", "prefill_ratio"):
        assert theirs[name] == pytest.approx(0.5), "the drift between rounds cancels"
    measured.samples[plan.cases[0]] = measured.samples[plan.cases[0]][1:]
    assert record_of(plan, measured)["rows"][1]["decode_ratio"] == pytest.approx(0.5)


def test_bytes_that_are_not_known_give_no_fraction() -> None:
    plan, measured = measure()
    measured.starts[worker_key(plan.cases[1])].weight_bytes = None
    row = record_of(plan, measured)["rows"][1]
    assert row["decode_gb_s"] is row["decode_bandwidth_fraction"] is None
    assert row["decode_tok_s"] == pytest.approx(250)


def test_failures_are_rows_with_a_reason() -> None:
    plan, measured = measure()
    fail_second(plan, measured)
    record = record_of(plan, measured)
    assert [row["status"] for row in record["rows"]] == ["ok", "died"]
    assert "decode_tok_s" not in record["rows"][1]
    assert "died: openvino int8: the process was killed by SIGKILL" in table.render(record)


def test_an_interrupted_run_keeps_what_it_has() -> None:
    plan, measured = measure()
    del measured.samples[plan.cases[1]]
    measured.samples[plan.cases[0]] = measured.samples[plan.cases[0]][:1]
    measured.interrupted = True
    rows = record_of(plan, measured)["rows"]
    assert (rows[0]["status"], rows[0]["rounds"]) == ("ok", 1)
    assert (rows[1]["status"], rows[1]["reason"]) == (
        "not run",
        "interrupted before its first round",
    )


def test_files(tmp_path: Path) -> None:
    record = record_of(*measure())
    as_json, as_csv = write_record(record, tmp_path)
    assert json.loads(as_json.read_text())["rows"][0]["system"] == "gpt2fast"
    with as_csv.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["system"] for row in rows] == ["gpt2fast", "openvino"]
    assert float(rows[0]["decode_tok_s"]) == pytest.approx(500)
    assert "step_ms" not in rows[0]


def test_the_table_shows_every_figure() -> None:
    text = table.render(record_of(*measure()))
    line = next(line for line in text.splitlines() if line.strip().startswith("openvino"))
    for figure in (
        "40.0",
        "250",
        "4.00",
        "6.00",
        "250.0",
        "±67%",
        "0.50x",
        "0.20",
        "2.00",
        "22.00",
    ):
        assert figure in line.split(), (figure, line)


def test_charts_only_where_there_are_points() -> None:
    def keys(record: dict[str, Any]) -> list[str]:
        return [chart.key for chart in make_charts(record)]

    everything = ["latency_context", "throughput_batch", "quality_latency"]
    assert keys(record_of(*measure((1, 8)))) == everything
    assert keys(record_of(*measure((1,), quality=False))) == ["latency_context"]
    plan, measured = measure((1,))
    fail_second(plan, measured)
    assert keys(record_of(plan, measured)) == ["latency_context"], "one point is no scatter"
    for case, samples in measured.samples.items():
        measured.samples[case] = [sample(s.round, s.times[0], [0.001] * 4) for s in samples]
    assert keys(record_of(plan, measured)) == []


def test_limits_in_charts() -> None:
    context, batch = make_charts(record_of(*measure((1, 8))))[:2]
    for chart in (context, batch):
        assert [series.is_limit for series in chart.panels[0].series] == [False, False, True]
    limit = context.panels[0].series[2]
    for tokens, milliseconds in limit.points:  # 1 GB/s
        assert milliseconds == pytest.approx((1000 + 4 * tokens) / 1e6)
    # The arithmetic peak of 2 GFLOP/s is far below what the bandwidth allows for 8 sequences.
    flops = 2 * (2 * 768 + 400 + 2 * 2 * 8 * 60.5)
    assert batch.panels[0].series[2].points[1][1] == pytest.approx(2e9 / flops)


def test_agreement_stops_at_the_first_difference() -> None:
    reference = [1, 2, 3, 4]
    assert agreement([1, 2, 3, 4], reference, [False] * 4) == 4
    assert agreement([1, 2, 9, 4], reference, [False] * 4) == 2
    assert agreement([1, 2, 9, 9], reference, [False, False, True, False]) == 4, "a near tie"
    assert agreement([9, 2, 9, 9], reference, [False, False, True, False]) == 0
