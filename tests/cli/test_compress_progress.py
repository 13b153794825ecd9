"""What a user sees while a compression goes on, in a log and on a terminal."""

from __future__ import annotations

import io

import pytest

pytest.importorskip("torch")
pytest.importorskip("tqdm")

from gpt2fast.cli.compress_progress import CompressProgress
from gpt2fast.compress.budget import Budget, Measured
from gpt2fast.compress.recipe.recipe import Recipe
from gpt2fast.compress.search.progress import Count, Position, duration
from gpt2fast.compress.search.search import Candidate, expected_tries, search


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


POSITION = Position(3, 12, 245.0, "quantize(blocks=int4-g64)")


def test_a_log_has_a_line_for_each_candidate(capsys: pytest.CaptureFixture[str]) -> None:
    with CompressProgress() as progress:
        progress.say("the loss: 1 of 64 windows")
        progress.trying(POSITION)
        for number in range(64):
            progress.say(f"measuring the loss: {number} of 64 windows")
        progress.result("quantize(blocks=int4-g64): perplexity +0.5 %")
    lines = capsys.readouterr().err.splitlines()
    assert lines[1:] == [
        "candidate 3 of about 12, about 4 min left: quantize(blocks=int4-g64)",
        "quantize(blocks=int4-g64): perplexity +0.5 %",
    ]


def test_a_terminal_has_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    with CompressProgress() as progress:
        progress.say("the model writes text")
        progress.trying(POSITION)
        progress.say("measuring the loss")
        progress.result("found")
    shown = terminal.getvalue()
    assert "\rthe model writes text" in shown, "without a bar: nothing is counted yet"
    assert "| candidate 3 of about 12, 4 min left: measuring the loss" in shown
    assert "found\n" in shown
    assert shown.endswith("\r"), "the bar is cleared in the end"


def test_what_is_left_is_estimated_from_what_was_tried() -> None:
    candidates = [Candidate(Recipe(()), (level,), 1000 - level) for level in range(21)]
    told: list[Position] = []
    count = Count(told.append, lambda candidate: 60.0)
    count.next_set(2)

    def measured(candidate: Candidate) -> Measured:
        loss = float(candidate.levels[0])
        return Measured(loss, loss, loss, loss, candidate.step_bytes)

    budget = Budget(max_loss=7.5)
    tried = search(candidates, budget, measured, begin=count.begin)
    assert [position.number for position in told] == list(range(1, len(tried) + 1))
    assert told[0].seconds_left is None
    assert told[0].of_about == round(expected_tries(candidates, budget)) + 2
    for position in told[1:]:
        assert position.seconds_left == 60.0 * (position.of_about - position.number + 1)
    assert told[-1].of_about == len(tried) + 2, "in the end it is known"
    count.next_set(0)
    count.begin(candidates[0], 1.0)
    assert (told[-1].number, told[-1].of_about) == (len(tried) + 1, len(tried) + 2)


@pytest.mark.parametrize(
    ("seconds", "told"), [(0.2, "1 s"), (42, "42 s"), (245, "4 min"), (7800, "2 h 10 min")]
)
def test_durations(seconds: float, told: str) -> None:
    assert duration(seconds) == told
