"""Which cases a command stands for, and what is refused before anything is measured."""

from __future__ import annotations

import errno
import io
import shutil
from pathlib import Path

import pytest

from gpt2fast.bench import peers
from gpt2fast.bench.costs import attention_flops, decode_flops, prefill_flops
from gpt2fast.bench.grid import Model, Sizes, Variant, choose_systems, expand, find_baseline
from gpt2fast.bench.options import BenchOptions, make_plan
from gpt2fast.bench.pool import random_prompts
from gpt2fast.bench.progress import Progress
from gpt2fast.bench.results import write_results
from gpt2fast.bench.rows import make_record
from gpt2fast.bench.run import Measured, split
from gpt2fast.checkpoint.resolve import resolve
from gpt2fast.config import LayerShape, ModelConfig
from gpt2fast.errors import ContextOverflowError, GPT2FastError, OptionError

TINY = ModelConfig.from_dict(
    {"n_embd": 8, "n_layer": 2, "n_head": 2, "vocab_size": 50, "n_positions": 64}, "config.json"
)
MODEL = Model("tiny", Path("tiny"), TINY)


def test_every_combination_is_a_case() -> None:
    sizes = Sizes(batch=(1, 2), prompt=(4, 8, 16), tokens=(5,), threads=(1, 2))
    cases = expand([MODEL], [("gpt2fast", "float32"), ("openvino", "int8")], sizes)
    assert len(cases) == len(set(cases)) == 2 * 3 * 2 * 2
    assert len({case.point for case in cases}) == 12
    assert cases[0].point == cases[1].point, "the cases of a point follow each other"


def test_cache_formats_are_an_axis_of_gpt2fast_alone() -> None:
    sizes = Sizes((1,), (4,), (5,), (1,))
    systems = [("gpt2fast", "float32"), ("openvino", "float32")]
    cases = expand([MODEL], systems, sizes, ("float32", "int8"))
    found = [(case.variant.system, case.variant.kv_cache_dtype) for case in cases]
    assert found == [("gpt2fast", "float32"), ("gpt2fast", "int8"), ("openvino", None)]


def test_prompt_and_tokens_must_fit_the_context() -> None:
    expand([MODEL], [("gpt2fast", "float32")], Sizes((1,), (32,), (32,), (1,)))
    with pytest.raises(ContextOverflowError, match=r"--prompt 33 and --tokens 32 .* 64 tokens"):
        expand([MODEL], [("gpt2fast", "float32")], Sizes((1,), (8, 33), (32,), (1,)))


def test_formats_of_each_system() -> None:
    chosen = choose_systems(["gpt2fast", "llama_cpp:float16,int8"], ["float32", "int4"])
    assert chosen == [
        ("gpt2fast", "float32"),
        ("gpt2fast", "int4"),
        ("llama_cpp", "float16"),
        ("llama_cpp", "int8"),
    ]


def test_all_means_installed_systems_that_have_the_format() -> None:
    chosen = choose_systems(["all"], ["bfloat16", "int4"])
    assert ("gpt2fast", "int4") in chosen
    for system, fmt in chosen:
        assert peers.missing(system) is None
        assert fmt in peers.formats(system)


@pytest.mark.parametrize(
    ("names", "formats", "message"),
    [
        (["fastgpt"], ["float32"], "'fastgpt' is unknown; choose from gpt2fast"),
        (["gpt2fast"], ["float64"], "gpt2fast has no format 'float64'"),
        (["ctranslate2"], ["int4"], "ctranslate2 has no format 'int4'; it has float32, int8"),
        (["gpt2fast:float16"], ["float32"], "gpt2fast has no format 'float16'"),
    ],
)
def test_unknown_systems_and_formats(names: list[str], formats: list[str], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        choose_systems(names, formats)


def test_baseline() -> None:
    systems = [("gpt2fast", "float32"), ("llama_cpp", "int8"), ("llama_cpp", "int4")]
    cases = expand([MODEL], systems, Sizes((1,), (4,), (5,), (1,)))
    assert find_baseline(cases, None) == Variant("gpt2fast", "float32", MODEL)
    assert find_baseline(cases, "llama_cpp") == Variant("llama_cpp", "int8", MODEL)
    assert find_baseline(cases, "llama_cpp:int4") == Variant("llama_cpp", "int4", MODEL)
    with pytest.raises(OptionError, match="'openvino' is not measured; choose from gpt2fast:float"):
        find_baseline(cases, "openvino")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "give a MODEL"),
        ({"models": ("demo",), "tokens": (1,)}, "at least 2"),
        ({"models": ("demo",), "batch": (0,)}, "--batch 0"),
        ({"models": ("demo",), "threads": (5000,)}, "--threads 5000"),
        ({"models": ("demo",), "rounds": 0}, "--rounds 0"),
        ({"models": ("demo",), "timeout": float("nan")}, "--timeout nan"),
        ({"models": ("demo",), "text": ("/no/such/file",)}, "/no/such/file: no text files there"),
        ({"models": ("demo",), "text": ("/dev/null",)}, "/dev/null: the file is empty"),
        (
            {"models": ("demo",), "text": (__file__,), "context": 513},
            r"context = 513 .* 512\]",
        ),
        ({"models": ("demo",), "text": (__file__,), "stride": 512}, "stride = 512 .* left out"),
        ({"models": ("demo",), "stride": 4}, "--stride is of the windows of --text"),
        ({"models": ("demo",), "kv_cache_dtype": ("int3",)}, "--kv-cache-dtype 'int3'"),
        ({"models": ("demo",), "out": "/dev/null/x"}, "--out /dev/null/x"),
        ({"models": ("demo", "./no-such")}, "no-such"),
        ({"random": ("gpt3",)}, "--random 'gpt3' is unknown; choose from gpt2"),
        ({"random": ("gpt2",), "text": (__file__,)}, "--text says nothing of random weights"),
        ({"random": ("gpt2-xl",), "prompt": (1020,)}, "exceed the context"),
    ],
)
def test_bad_options_name_themselves(
    options: dict[str, object], message: str, tmp_path: Path
) -> None:
    work = tmp_path / "work"
    with pytest.raises(GPT2FastError, match=message):
        make_plan(BenchOptions(**{"work": str(work), **options}))  # type: ignore[arg-type]
    assert not work.exists() or not list(work.iterdir()), "no weights may have been written yet"


def test_cases_share_a_block_only_where_memory_allows() -> None:
    other = Model("other", Path("other"), TINY)
    systems = [("gpt2fast", "float32"), ("gpt2fast", "int8")]
    cases = expand([MODEL, other], systems, Sizes((1, 2), (4,), (5,), (1,)))
    assert split(cases, 1e12) == [cases]
    assert [len(block) for block in split(cases, 0.0)] == [2, 2, 2, 2]
    for block in split(cases, 0.0):
        assert len({case.point for case in block}) == 1, "what is compared is interleaved"
    assert split([], 1e12) == []


def test_prompts_are_the_same_for_everybody() -> None:
    assert random_prompts(50, 2, 9) == random_prompts(50, 2, 9)
    rows = random_prompts(50, 3, 100)
    assert [len(row) for row in rows] == [100] * 3
    assert rows[0] != rows[1]
    assert 0 <= min(map(min, rows)) <= max(map(max, rows)) < 50


def test_operations_counted_by_hand() -> None:
    # Width 8, inner 32, 2 layers: 4 * 64 + 2 * 256 = 768 multiply-adds a layer and token; the head
    # 400; attention 2 * 8 a layer for each token that is seen.
    assert decode_flops(TINY, 10) == 2 * (2 * 768 + 400 + 2 * 2 * 8 * 10)
    # A prompt of three: the first layer whole, attention over 1 + 2 + 3 tokens; of the last layer
    # the last token, which sees three, and keys and values (2 * 64) of the two before it.
    first = 3 * 768 + 2 * 8 * (1 + 2 + 3)
    last = 768 + 2 * 8 * 3 + 2 * 128
    assert prefill_flops(TINY, 3) == 2 * (first + last + 400)
    assert attention_flops(TINY, 3) == 2 * 2 * 8 * (1 + 2 + 3 + 3)


def test_operations_of_layers_of_different_shapes() -> None:
    # One head of two, of width 4, and 5 neurons; then both heads and 32: 4 * 8 * 4 + 2 * 8 * 5.
    pruned = TINY.with_layers([LayerShape(1, 5), LayerShape(2, 32)])
    assert decode_flops(pruned, 10) == 2 * (208 + 768 + 400 + 2 * (4 + 8) * 10)
    assert attention_flops(pruned, 3) == 2 * 2 * (4 * (1 + 2 + 3) + 8 * 3)
    first, last = 3 * 208, 768 + 2 * 2 * 8 * 8
    products = 2 * (first + last + 400)
    assert prefill_flops(pruned, 3) == products + attention_flops(pruned, 3)
    alike = TINY.with_layers([LayerShape(2, 32)] * 2)
    assert decode_flops(alike, 7) == decode_flops(TINY, 7)


def test_an_earlier_result_is_not_replaced_unasked(tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = {"models": ("demo",), "work": str(tmp_path / "work"), "out": str(out)}
    make_plan(BenchOptions(**options))  # type: ignore[arg-type]
    assert not out.exists(), "it is made when there is something to write"
    out.mkdir()
    (out / "notes.txt").touch()
    make_plan(BenchOptions(**options))  # type: ignore[arg-type]
    (out / "quality_latency.png").touch()
    with pytest.raises(OptionError, match=r"\(quality_latency.png\); .* --overwrite to replace it"):
        make_plan(BenchOptions(**options))  # type: ignore[arg-type]
    plan = make_plan(BenchOptions(**options, overwrite=True))  # type: ignore[arg-type]
    record = make_record(plan, Measured(interrupted=True), "gpt2fast bench demo", "today")
    write_results(record, out, print)
    names = {path.name for path in out.iterdir()}
    assert names == {"notes.txt", "rows.json", "rows.csv", "report.html"}, "no chart of before"
    with pytest.raises(OptionError, match="--overwrite is of --out"):
        make_plan(BenchOptions(models=("demo",), overwrite=True, work=str(tmp_path)))


def test_a_result_does_not_go_into_the_model(tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(resolve("demo"), model)
    for out in (model, model / "bench"):
        options = BenchOptions(models=(str(model),), work=str(tmp_path / "work"), out=str(out))
        with pytest.raises(OptionError, match="lies in the model's own directory"):
            make_plan(options)
    assert not (model / "bench").exists()


def test_a_failed_write_leaves_the_earlier_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = make_plan(BenchOptions(models=("demo",), work=str(tmp_path / "work")))
    record = make_record(plan, Measured(interrupted=True), "gpt2fast bench demo", "today")
    out = tmp_path / "out"
    write_results(record, out, print)
    before = {path.name: path.read_bytes() for path in out.iterdir()}

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("gpt2fast.files.json_file.os.fsync", full)
    with pytest.raises(OptionError, match=r"rows\.json: cannot be written: the disk is full"):
        write_results(record, out, print)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_progress_shows_names_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(stream, "isatty", lambda: True)
    with monkeypatch.context() as patch:
        patch.setattr("sys.stderr", stream)
        with Progress(1) as progress:
            progress.say("loading a\x1b]0;b")
    assert "loading a\\x1b]0;b" in stream.getvalue()
