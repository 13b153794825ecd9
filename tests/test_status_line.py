"""Progress: a line that changes on a terminal, few lines in a log."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr

import pytest

from gpt2fast.bench.progress import Progress as BenchProgress
from gpt2fast.cli.progress import Progress
from gpt2fast.status_line import StatusLine


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@contextmanager
def terminal() -> Iterator[Terminal]:
    with redirect_stderr(Terminal()) as found:
        yield found


def test_a_terminal_has_one_line_which_is_cleared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    with terminal() as found, StatusLine(log_seconds=10) as line:
        line.show("loading \x1b[2J")
        line.show("half", 1, 2)
        line.keep("found")
        line.show("x" * 200, 2, 2)
    shown = found.getvalue()
    assert "loading \\x1b[2J" in shown, "escaped"
    assert "|##########          | half" in shown or "|██████████          | half" in shown
    assert shown.count("\n") == 1, "that of the line which stays"
    assert "found\n" in shown
    assert max(map(len, shown.replace("\n", "\r").split("\r"))) <= 60
    assert shown.endswith("\r")


def test_short_work_shows_nothing() -> None:
    with terminal() as found, Progress() as progress:
        progress.show("rounding", 1, 3)
    assert found.getvalue() == ""


def test_work_that_takes_longer_shows_its_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpt2fast.cli.progress._QUIET_SECONDS", 0.0)
    with terminal() as found, Progress() as progress:
        progress.show("rounding", 1, 3)
    assert "|  33 %  rounding" in found.getvalue()


def test_a_log_has_few_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with StatusLine(log_seconds=3600) as line:
        for number in range(5):
            line.show(f"step {number}", number, 5)
        line.show("the last", always=True)
        line.keep("found")
    with Progress() as progress:
        progress.show("rounding", 1, 3)
    with BenchProgress(rounds=2) as bench:
        bench.say("starting")
        bench.say("checking")
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["step 0", "the last", "found", "starting", "checking"]
