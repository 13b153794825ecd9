"""Statistics, charts and files from samples whose answers can be worked out by hand."""

from __future__ import annotations

import csv
import dataclasses
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from gpt2fast.bench import table
from gpt2fast.bench.charts import make_charts
from gpt2fast.bench.costs import attention_flops, prefill_flops
from gpt2fast.bench.grid import Case, Model, Sizes, expand
from gpt2fast.bench.options import BenchOptions, Plan
from gpt2fast.bench.palette import make_styles
from gpt2fast.bench.plots import write_plots
from gpt2fast.bench.pool import Starts, holding_of
from gpt2fast.bench.probe import Probe, agreement
from gpt2fast.bench.report import make_report
from gpt2fast.bench.rows import make_record, write_record
from gpt2fast.bench.run import Measured, Sample
from gpt2fast.bench.svg import decade_ticks, nice_ticks
from gpt2fast.config import ModelConfig

CONFIG = ModelConfig.from_dict(
    {"n_embd": 8, "n_layer": 2, "n_head": 2, "vocab_size": 50, "n_positions": 256}, "config.json"
)
MODEL = Model("tiny <b>", Path("tiny"), CONFIG)
SYSTEMS = [("gpt2fast", "float32"), ("openvino", "int8")]


def sample(number: int, first: float, steps: list[float]) -> Sample:
    times = [first]
    for step in steps:
        times.append(times[-1] + step)
    return Sample(number, tuple(times), 1e9, 2_000_000 + number, was_idle_after=True)


def measure(batches: tuple[int, ...] = (1,), quality: bool = True) -> tuple[Plan, Measured]:
    """Round r of gpt2fast takes 1, 2, 3 ms a token; openvino twice as long in each round."""
    cases = expand([MODEL], SYSTEMS, Sizes(batches, (10,), (101,), (2,)))
    measured = Measured(peaks={("float32", 2): [1e9, 3e9, 2e9]})
    for case in cases:
        factor = 2 if case.variant.system == "openvino" else 1
        for number in range(3):
            step = factor * (number + 1) * 1e-3
            found = sample(number, 10 * step, [step] * 100)
            measured.samples.setdefault(case, []).append(found)
        probe = Probe(agreement=32, agreement_of=32, versions={"numpy": "1.2"})
        if quality:
            probe.quality = {"perplexity": 20.0 + factor, "bits_per_byte": 1.0}
        measured.probes[case.variant] = probe
        measured.starts[holding_of(case)] = Starts([0.2, 0.1, 0.9], [1.0, 2.0, 4.0], 1, 1000, 4)
    return Plan(BenchOptions(), tuple(cases), cases[0].variant, {}, Path(), None), measured


def record_of(plan: Plan, measured: Measured) -> dict[str, Any]:
    return make_record(plan, measured, "gpt2fast bench", "2030-01-01")


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
    measured.starts[holding_of(case)] = measured.starts[holding_of(plan.cases[0])]
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
    measured.starts[holding_of(plan.cases[1])].weight_bytes = None
    row = record_of(plan, measured)["rows"][1]
    assert row["decode_gb_s"] is row["decode_bandwidth_fraction"] is None
    assert row["decode_tok_s"] == pytest.approx(250)


def fail_second(plan: Plan, measured: Measured) -> Case:
    case = plan.cases[1]
    measured.failures[case] = ("died", "the process was killed by SIGKILL")
    return case


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


@pytest.mark.parametrize(("low", "high"), [(0, 7.3), (25.1, 25.2), (0.001, 0.0011), (0, 123456)])
def test_ticks_enclose_the_values(low: float, high: float) -> None:
    ticks = nice_ticks(low, high)
    assert ticks[0] <= low < high <= ticks[-1]
    assert 3 <= len(ticks) <= 9
    low = max(low, 1e-3)
    decades = decade_ticks(low, high)
    assert decades[0] <= low < high <= decades[-1]


class Checker(HTMLParser):
    """Counts open tags; collects what would be fetched."""

    VOID = frozenset({"meta", "br", "link", "img"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.fetched: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.fetched += [str(value) for name, value in attrs if name in ("src", "href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_report_is_whole_and_fetches_nothing() -> None:
    record = record_of(*measure((1, 8)))
    html = make_report(record, make_charts(record), make_styles(record))
    checker = Checker()
    checker.feed(html)
    assert checker.open == []
    assert checker.fetched == []
    assert not {"script", "link", "img", "iframe"} & set(checker.tags)
    assert "url(" not in html
    assert "@import" not in html
    assert "tiny <b>" not in html
    assert "tiny &lt;b&gt;" in html
    for figure in ("gpt2fast float32", "openvino int8", "250.0 tok/s", "Latency against context"):
        assert figure in html


def test_names_in_the_report_are_no_markup() -> None:
    record = record_of(*measure((1, 8)))
    name = "</title><script>alert(1)</script>\"'><img src=x onerror=y>"
    for row in record["rows"]:
        row["model"] = name
    record["command"] = record["machine"]["processor"] = name
    html = make_report(record, make_charts(record), make_styles(record))
    checker = Checker()
    checker.feed(html)
    assert checker.open == []
    assert not {"script", "img"} & set(checker.tags)


def test_plots(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    record = record_of(*measure((1, 8)))
    for row in record["rows"]:
        row["model"] = r"<b> $\nonsense$"  # neither markup nor mathematics
    charts = make_charts(record)
    paths = write_plots(charts, make_styles(record), "a caption", tmp_path)
    assert len(paths) == 2 * len(charts) == 6
    for path in paths:
        if path.suffix == ".png":
            start = path.read_bytes()[:24]
            assert start.startswith(b"\x89PNG")
            assert int.from_bytes(start[16:20], "big") >= 1200, "pixels across"
        else:
            assert_scales_and_follows_the_theme(path)
            assert "<b> $\\nonsense$" in "".join(ElementTree.parse(path).getroot().itertext())


def assert_scales_and_follows_the_theme(path: Path) -> None:
    root = ElementTree.fromstring(path.read_text(encoding="utf-8"))
    assert "viewBox" in root.attrib
    assert not {"width", "height"} & root.attrib.keys(), "it takes the width of the page"
    style = next(each.text for each in root.iter() if each.tag.endswith("}style"))
    assert style is not None
    assert "prefers-color-scheme: dark" in style


def test_a_chart_of_the_report_takes_the_width_of_the_page() -> None:
    record = record_of(*measure((1, 8)))
    html = make_report(record, make_charts(record), make_styles(record))
    widths = re.findall(r'viewBox="0 0 (\d+) \d+" role="img"', html)
    assert widths.count("1280") == html.count('class="panels alone"') > 0
    assert ".charts{display:grid;grid-template-columns:minmax(0,1fr)" in html, "one below the other"


def test_agreement_stops_at_the_first_difference() -> None:
    reference = [1, 2, 3, 4]
    assert agreement([1, 2, 3, 4], reference, [False] * 4) == 4
    assert agreement([1, 2, 9, 4], reference, [False] * 4) == 2
    assert agreement([1, 2, 9, 9], reference, [False, False, True, False]) == 4, "a near tie"
    assert agreement([9, 2, 9, 9], reference, [False, False, True, False]) == 0
