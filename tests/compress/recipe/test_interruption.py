"""Whatever interrupts a pass, it loses one step at most and comes to the same model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from gpt2fast.compress.calibration.calibration import Calibration
from gpt2fast.compress.recipe.passes import OPTIONS, PASSES
from gpt2fast.compress.recipe.pipeline import Context, Pipeline
from gpt2fast.compress.recipe.recipe import parse_recipe
from gpt2fast.compress.state.journal import TensorJournal
from gpt2fast.compress.state.model import Model
from gpt2fast.errors import CheckpointError

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "layers": ("prune-layers", {"remove": 3}),
    "heads": ("prune-heads", {"keep": 0.5}),
    "neurons": ("prune-neurons", {"keep": 0.5, "multiple": 1, "uniform": True}),
    "neurons by gradient": ("prune-neurons", {"keep": 0.5, "importance": "gradient"}),
    "sparsegpt": ("prune-weights", {}),
    "random": ("prune-weights", {"method": "random", "pattern": "2:4"}),
    "gptq": ("quantize", {"head_method": "gptq"}),
    "awq": ("quantize", {"method": "awq"}),
    "mixed": ("quantize-mixed", {"bits": 5.0, "method": "rtn"}),
}


class Record:
    """Counts the steps that are recorded, and interrupts right after one of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.names: list[str] = []
        self.stop_after = -1
        keep = TensorJournal.keep

        def kept(journal: TensorJournal, name: str, *done: Any) -> None:
            keep(journal, name, *done)
            if len(name) != 12:  # the key of a snapshot
                self.count(name)

        monkeypatch.setattr(TensorJournal, "keep", kept)

    def count(self, name: str) -> None:
        self.names.append(name)
        if len(self.names) == self.stop_after:
            raise KeyboardInterrupt


@pytest.fixture
def run(
    random_model: Callable[..., Model],
    random_calibration: Callable[..., Calibration],
    tmp_path: Path,
) -> Callable[[str, str], Model]:
    """``run(case, work)``: the model after the pass, whose work is in the directory ``work``."""
    text = random_calibration(101, windows=40)

    def make(case: str, work: str) -> Model:
        name, options = CASES[case]
        context = Context(text, tmp_path, tmp_path / work, lambda line: None)
        pipeline = Pipeline(PASSES, lambda: random_model(n_layer=4, n_embd=64), context)
        return pipeline.run(parse_recipe({"passes": [{name: options}]}, "test", OPTIONS))

    return make


@pytest.mark.parametrize("case", CASES)
def test_one_step_at_most_is_lost(
    case: str, run: Callable[[str, str], Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    record = Record(monkeypatch)
    whole = run(case, "whole")
    names = list(record.names)
    assert len(names) >= 3, "a pass that is one step could lose everything"
    for stop_after in {1, len(names) // 2, len(names) - 1}:
        record.names, record.stop_after = [], stop_after
        work = f"cut-{stop_after}"
        with pytest.raises(KeyboardInterrupt):
            run(case, work)
        record.stop_after = -1
        resumed = run(case, work)
        assert record.names == names, "each step was done once"
        expected = whole.network.state_dict()
        for name, value in resumed.network.state_dict().items():
            assert torch.equal(value, expected[name]), name
        assert resumed.config == whole.config
        assert resumed.matrices.keys() == whole.matrices.keys()


def test_what_matrices_lose_is_measured_once_for_all_bits(
    run: Callable[[str, str], Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    record = Record(monkeypatch)
    run("mixed", "work")
    first = [name for name in record.names if name.startswith("loss-")]
    monkeypatch.setitem(CASES, "mixed", ("quantize-mixed", {"bits": 6.0, "method": "rtn"}))
    run("mixed", "work")
    assert [name for name in record.names if name.startswith("loss-")] == first
    assert len(first) == 17


def test_every_pass_is_tried() -> None:
    """A recovery is interrupted in tests/compress/distill/test_recover.py."""
    assert {name for name, _ in CASES.values()} | {"recover"} == PASSES.keys()


def test_a_damaged_step_is_named(
    run: Callable[[str, str], Model], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    record = Record(monkeypatch)
    record.stop_after = 2
    with pytest.raises(KeyboardInterrupt):
        run("sparsegpt", "work")
    (file,) = (tmp_path / "work" / "passes").glob("*/block-1/tensors.safetensors")
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(CheckpointError, match=r"block-1: is damaged"):
        run("sparsegpt", "work")
