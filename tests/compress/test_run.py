"""From a budget or a recipe to an artifact that keeps it, or to a refusal."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gpt2fast import LLM
from gpt2fast.checkpoint import open_checkpoint
from gpt2fast.checkpoint.digest import weights_digest
from gpt2fast.compress import run as run_module
from gpt2fast.compress.budget import Budget, BudgetError
from gpt2fast.compress.calibration.splits import Sizes
from gpt2fast.compress.recipe import passes as passes_module
from gpt2fast.compress.recipe import pipeline as pipeline_module
from gpt2fast.compress.recipe.passes import OPTIONS
from gpt2fast.compress.recipe.recipe import Recipe, parse_recipe
from gpt2fast.compress.report import deliver as deliver_module
from gpt2fast.compress.report.deliver import deliver
from gpt2fast.compress.run import CompressOptions, compress
from gpt2fast.compress.search import candidates as ladder_module
from gpt2fast.compress.search import evaluate_candidate as trial_module
from gpt2fast.errors import CheckpointError, OptionError

pytestmark = pytest.mark.usefixtures("short_timings")

SIZES = Sizes(length=48, calibration=16, selection=16, verification=24)
ROUND = {"quantize": {"method": "rtn", "blocks": "int8-g64", "head_method": "rtn"}}


def recipe(*passes: dict[str, Any]) -> Recipe:
    return parse_recipe({"passes": list(passes)}, "test", OPTIONS)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Python source, which the bundled model knows."""
    import argparse
    import inspect

    path = tmp_path_factory.mktemp("text") / "source.txt"
    path.write_text(inspect.getsource(argparse)[:60_000])
    return str(path)


@pytest.fixture
def options(text: str, tmp_path: Path) -> Callable[..., CompressOptions]:
    def make(**fields: Any) -> CompressOptions:
        given = {
            "model": "demo",
            "out": tmp_path / "out",
            "budget": Budget(max_loss=2.0),
            "recipe": recipe(ROUND),
            "text": (text,),
            "sizes": SIZES,
            "num_threads": 1,
        }
        return CompressOptions(**{**given, **fields})

    return make


def say(_line: str) -> None:
    """Nobody listens."""


def test_a_recipe_becomes_an_artifact_with_its_proof(
    options: Callable[..., CompressOptions], tmp_path: Path
) -> None:
    with open_checkpoint("demo") as checkpoint:
        before = weights_digest(checkpoint)
    report = compress(options(), say)
    out = tmp_path / "out"
    assert report == json.loads((out / "report.json").read_text())
    quality = report["quality"]
    assert quality["percent_low"] <= quality["percent"] <= quality["percent_high"] <= 2.0
    assert quality["top1_agreement"] > 0.9
    assert report["budget"]["kept"] is True
    assert report["budget"]["verified"] == 1
    assert [entry["pass"] for entry in report["passes"]] == ["quantize"]
    assert len(report["passes"][0]["relative_error"]) == 17
    assert report["original"]["weights_sha256"] == before
    assert report["artifact"]["bytes"] < 0.6 * report["original"]["bytes"], "of float16"
    left = {entry["name"] for entry in report["coverage"]["uncompressed"]}
    assert "wpe.weight" in left
    assert "wte.weight" not in left
    assert report["coverage"]["uncompressed_bytes"] == sum(
        entry["bytes"] for entry in report["coverage"]["uncompressed"]
    )
    card = (out / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: gpt2fast\n"), "the hub knows no model of that name"
    assert report["original"]["weights_sha256"] in card
    assert "wpe.weight" in card
    assert "## Bias" in card
    assert not (tmp_path / "out.work").exists()
    with open_checkpoint("demo") as checkpoint:
        assert weights_digest(checkpoint) == before, "the input is only read"


def test_the_artifact_runs_in_a_process_without_torch(
    options: Callable[..., CompressOptions], tmp_path: Path
) -> None:
    compress(options(), say)
    program = (
        "import sys; sys.modules['torch'] = None\n"
        "from gpt2fast import LLM, SamplingParams\n"
        f"llm = LLM({str(tmp_path / 'out')!r})\n"
        "print(llm.generate('import os', SamplingParams(max_tokens=8))[0].outputs[0].token_ids)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("[")


def test_a_budget_is_searched_for(
    options: Callable[..., CompressOptions], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ladder_module, "BLOCKS", ("int8-g64", "int4-g64", "int3-g128"))
    monkeypatch.setattr(ladder_module, "HEADS", ("int8-g64",))
    report = compress(options(recipe=None, budget=Budget(max_loss=8.0)), say)
    assert 1 < len(report["search"]) <= 5, "two of three formats, two of mixed precision"
    labels = [entry["label"] for entry in report["search"]]
    assert not any("blocks=int8" in label for label in labels), "int4 keeps it and is smaller"
    plot = (tmp_path / "out" / "pareto.svg").read_text()
    assert plot.startswith("<?xml")
    assert "prefers-color-scheme: dark" in plot
    assert not re.search(r'<svg\b[^>]* width="', plot), "it takes the width of the page"


def test_a_miss_is_no_success(options: Callable[..., CompressOptions], tmp_path: Path) -> None:
    with pytest.raises(BudgetError, match=r"none of the 1 recipes tried keeps the budget") as info:
        compress(options(budget=Budget(max_loss=1e-6, min_speedup=1000.0)), say)
    assert "1000x is asked" in str(info.value)
    assert not (tmp_path / "out").exists()


def test_an_interruption_is_gone_on_from(
    options: Callable[..., CompressOptions], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = passes_module.record_part
    seen: list[str] = []

    def interrupted(model: Any, journal: Any, prefix: str) -> None:
        recorded(model, journal, prefix)
        if prefix == "h.1.":
            raise KeyboardInterrupt

    def recorded(model: Any, journal: Any, prefix: str) -> None:
        saved(model, journal, prefix)
        seen.append(prefix)

    monkeypatch.setattr(passes_module, "record_part", interrupted)
    with pytest.raises(KeyboardInterrupt):
        compress(options(), say)
    assert not (tmp_path / "out").exists()
    first = list(seen)
    monkeypatch.setattr(passes_module, "record_part", recorded)
    compress(options(), say)
    again = seen[len(first) :]
    assert not set(again) & set(first), "what was recorded is not done again"
    whole = tmp_path / "whole"
    compress(options(out=whole), say)
    weights = [(path / "model.safetensors").read_bytes() for path in (whole, tmp_path / "out")]
    assert weights[0] == weights[1]


def test_other_work_is_not_mixed_in(
    options: Callable[..., CompressOptions], tmp_path: Path
) -> None:
    work = tmp_path / "work"
    with pytest.raises(BudgetError):
        compress(options(work=work, budget=Budget(min_speedup=1e5)), say)
    assert len(list((work / "trials").iterdir())) == 1, "what was measured is kept"
    with pytest.raises(OptionError, match="another model, text, seed or number of threads"):
        compress(options(work=work, sizes=replace(SIZES, length=40)), say)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_text("mine")
    with pytest.raises(OptionError, match="give a new name"):
        compress(options(work=tmp_path / "mine"), say)
    with pytest.raises(OptionError, match="give a new name"):
        compress(options(out=tmp_path / "mine"), say)


def test_work_of_another_layout_is_refused(
    options: Callable[..., CompressOptions], tmp_path: Path
) -> None:
    """The version before kept it in other files, under a work.json without a layout."""
    with pytest.raises(BudgetError):
        compress(options(budget=Budget(min_speedup=1e5)), say)
    record = tmp_path / "out.work" / "work.json"
    fields = json.loads(record.read_text())
    del fields["layout"]
    record.write_text(json.dumps(fields))
    with pytest.raises(OptionError, match=r"out\.work holds the work of another version"):
        compress(options(), say)


def test_what_is_finished_is_left_as_it_is(
    options: Callable[..., CompressOptions], tmp_path: Path
) -> None:
    """And what a process that was killed then has left of its work goes."""
    report = compress(options(), say)
    work = tmp_path / "out.work"
    work.mkdir()
    (work / "work.json").write_text("{}")
    (tmp_path / ".out.work-abcdefgh.partial").mkdir()
    said: list[str] = []
    assert compress(options(), say, said.append) == json.loads(json.dumps(report))
    assert said == [f"{tmp_path / 'out'} is finished already: nothing is left to do"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    with pytest.raises(OptionError, match="is a directory with files in it; give a new name"):
        compress(options(seed=1), say)


def test_what_is_asked_must_make_sense(options: Callable[..., CompressOptions]) -> None:
    with pytest.raises(OptionError, match="give a budget"):
        options(recipe=None, budget=Budget())
    with pytest.raises(OptionError, match="--verify-text needs --text"):
        options(text=(), verify_text=("x",))
    with pytest.raises(OptionError, match="no text files there"):
        compress(options(text=("/none.txt",)), say)


def test_a_quantized_model_is_refused(
    options: Callable[..., CompressOptions], tmp_path: Path
) -> None:
    with LLM("demo", quantization="int8") as llm:
        llm.save_quantized(tmp_path / "int8")
    with pytest.raises(OptionError, match="compress the float checkpoint"):
        compress(options(model=str(tmp_path / "int8")), say)


def test_a_full_disk_is_named(
    options: Callable[..., CompressOptions], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device", "x")

    monkeypatch.setattr(pipeline_module, "save_snapshot", full)
    with pytest.raises(OptionError, match=r"out\.work: cannot be written: the disk is full; free"):
        compress(options(), say)


def test_every_pass_and_option_is_documented() -> None:
    page = (Path(__file__).parents[2] / "docs" / "compression.md").read_text()
    for name, kind in OPTIONS.items():
        (row,) = [line for line in page.splitlines() if line.startswith(f"| `{name}` |")]
        for field in dataclasses.fields(kind):
            assert f"`{field.name}`" in row, (name, field.name)


@pytest.mark.parametrize("place", ["window_nats", "bias_figures"])
def test_an_interrupted_measurement_is_made_again(
    options: Callable[..., CompressOptions], monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    home = trial_module if place == "window_nats" else run_module

    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(home, place, interrupted)
        with pytest.raises(KeyboardInterrupt):
            compress(options(), say)
    report = compress(options(), say)
    assert [entry["pass"] for entry in report["passes"]] == ["quantize"]


def test_out_and_work_must_not_lie_in_each_other(
    options: Callable[..., CompressOptions], tmp_path: Path
) -> None:
    for out, work in (("a", "a"), ("a/out", "a"), ("a", "a/work")):
        with pytest.raises(OptionError, match="lie in each other"):
            options(out=tmp_path / out, work=tmp_path / work)


def test_work_on_another_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    artifact = made(tmp_path / "elsewhere" / "x")
    monkeypatch.setattr(deliver_module, "_on_one_disk", lambda *_: False)
    deliver(artifact, tmp_path / "out" / "y")
    assert (tmp_path / "out" / "y" / "file").read_text() == "content"
    assert (artifact / "file").is_file(), "a copy was renamed"
    assert len(list((tmp_path / "out").iterdir())) == 1


def test_a_disk_that_is_full_in_the_end_costs_nothing(
    options: Callable[..., CompressOptions], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The artifact is not made, nor verified as another one, again; nothing half-written stays."""

    real = shutil.copyfile

    def full(source: Path, place: Path) -> object:
        if not Path(place).parent.match(".out-*.partial"):
            return real(source, place)
        Path(place).write_text("half")
        raise OSError(28, "No space left on device", str(place))

    with monkeypatch.context() as patch:
        patch.setattr(deliver_module, "_on_one_disk", lambda *_: False)
        patch.setattr(shutil, "copyfile", full)
        with pytest.raises(OptionError, match=r"/out/\S+: cannot be written: the disk is full"):
            compress(options(), say)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.work"]
    with monkeypatch.context() as patch:
        patch.setattr(trial_module, "save_model", None)
        report = compress(options(), say)
    assert report["budget"]["verified"] == 1
    assert [entry["pass"] for entry in report["passes"]] == ["quantize"]
    assert not (tmp_path / "out" / "history.json").exists()


def test_artifacts_are_counted_and_not_attempts(
    options: Callable[..., CompressOptions], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    for _ in range(2):
        with monkeypatch.context() as patch:
            patch.setattr(run_module, "verify", interrupted)
            with pytest.raises(KeyboardInterrupt):
                compress(options(), say)
    assert compress(options(), say)["budget"]["verified"] == 1


@pytest.mark.parametrize(
    ("passes", "message"),
    [
        ([{"prune-layers": {"layers": [7]}}], "prune-layers: layers: there is no layer 7"),
        ([{"prune-layers": {"remove": 4}}], "prune-layers: 4 of 4 layers cannot be removed"),
        ([{"prune-layers": {"remove": 2}}] * 2, "prune-layers: 2 of 2 layers cannot be removed"),
        ([ROUND, ROUND], "quantize: an earlier pass has quantized the model"),
        ([ROUND, {"prune-neurons": {}}], "prune-neurons: an earlier pass has quantized"),
        ([{"quantize-mixed": {"bits": 2.0}}], "quantize-mixed: bits = 2 are too few"),
        (
            [
                {"prune-layers": {}},
                {"quantize": {"overrides": [["h.3.mlp.c_fc.weight", "int8"]]}},
            ],
            "quantize: overrides: the model has no matrix h.3.mlp.c_fc.weight",
        ),
    ],
)
def test_what_a_model_cannot_have_is_refused_before_any_work(
    options: Callable[..., CompressOptions],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    passes: list[dict[str, Any]],
    message: str,
) -> None:
    monkeypatch.setattr(run_module, "open_work", None)
    with pytest.raises(OptionError) as error:
        compress(options(recipe=recipe(*passes)), say)
    assert message in str(error.value)
    assert not list(tmp_path.iterdir())


def test_places_that_cannot_be_written_are_named_before_any_work(
    options: Callable[..., CompressOptions], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_module, "open_work", None)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OptionError, match=r"^OUT .*file/out: cannot write there"):
        compress(options(out=tmp_path / "file" / "out"), say)
    with pytest.raises(OptionError, match=r"^--work .*file/w: cannot write there"):
        compress(options(work=tmp_path / "file" / "w"), say)


def test_the_card_says_what_text_of_the_models_own_tells(
    options: Callable[..., CompressOptions], tmp_path: Path
) -> None:
    compress(options(text=(), sizes=replace(SIZES, calibration=4)), say)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "measured on text that the model wrote itself" in card
    assert "and not what is lost on yours" in card


def made(directory: Path) -> Path:
    directory.mkdir(parents=True)
    (directory / "file").write_text("content")
    return directory


def test_damaged_work_is_named(options: Callable[..., CompressOptions], tmp_path: Path) -> None:
    with pytest.raises(BudgetError):
        compress(options(budget=Budget(min_speedup=1e5)), say)
    record = tmp_path / "out.work" / "work.json"
    record.write_text("")
    with pytest.raises(CheckpointError, match=r"work\.json: is not valid JSON"):
        compress(options(), say)


def test_without_a_loss_the_best_that_fits_is_taken(
    options: Callable[..., CompressOptions], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ladder_module, "BLOCKS", ("int8-g64", "int3-g128"))
    monkeypatch.setattr(ladder_module, "HEADS", ("int8-g64",))
    report = compress(options(recipe=None, budget=Budget(max_bytes=5_000_000)), say)
    assert report["recipe"]["passes"][0]["quantize"]["blocks"] == "int8-g64"


def test_a_size_beyond_reach_is_refused_at_once(
    options: Callable[..., CompressOptions], tmp_path: Path
) -> None:
    with pytest.raises(BudgetError, match=r"cannot be reached: the smallest of the 48 recipes"):
        compress(options(recipe=None, budget=Budget(max_loss=1.0, max_bytes=1000)), say)
    assert not list(tmp_path.iterdir())
