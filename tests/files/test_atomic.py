"""Whole or not at all; what a killed process leaves goes, what a running one writes stays."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from gpt2fast.errors import OptionError
from gpt2fast.files.atomic import (
    clear_abandoned,
    clear_all_abandoned,
    discard,
    scratch_directory,
    staged_directory,
    staged_file,
)
from gpt2fast.files.json_file import read_json_object, write_json
from gpt2fast.files.lock import exclusive

Staged = Callable[[Path], AbstractContextManager[Path]]

_KILLED = """
import os, signal, sys
from pathlib import Path
from gpt2fast.files import atomic
with getattr(atomic, sys.argv[1])(Path(sys.argv[2])) as stage:
    print(stage.name, flush=True)
    if sys.argv[3] == "wait":
        sys.stdin.read()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def start(kind: str, target: Path, then: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", _KILLED, kind, str(target), then],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


@pytest.mark.parametrize("staged", [staged_directory, staged_file, scratch_directory])
def test_what_a_killed_process_left_goes_and_what_a_running_one_writes_stays(
    staged: Staged, tmp_path: Path
) -> None:
    target, kind = tmp_path / "out[1]", staged.__name__  # type: ignore[attr-defined]
    (tmp_path / ".out[1]-is.partial").write_text("a user's own")
    start(kind, target, "die").communicate(timeout=60)
    assert len(names(tmp_path)) == 2
    running = start(kind, target, "wait")
    assert running.stdout is not None
    stage = running.stdout.readline().strip()
    kept = sorted([".out[1]-is.partial", stage])
    assert names(tmp_path) == kept, "the next one removes what the first one left"
    clear_abandoned(target)
    clear_all_abandoned(tmp_path.parent)
    assert names(tmp_path) == kept
    running.communicate(timeout=60)
    with staged(target):
        assert stage not in names(tmp_path)


def test_another_target_is_left_alone(tmp_path: Path) -> None:
    start("staged_directory", tmp_path / "out-2", "die").communicate(timeout=60)
    (left,) = names(tmp_path)
    clear_abandoned(tmp_path / "out")
    assert names(tmp_path) == [left]
    clear_abandoned(tmp_path / "out-2")
    assert names(tmp_path) == []


@pytest.mark.parametrize("staged", [staged_directory, staged_file])
def test_it_appears_whole_with_the_usual_permissions_or_not_at_all(
    staged: Staged, tmp_path: Path
) -> None:
    target = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt), staged(target):
        raise KeyboardInterrupt
    assert names(tmp_path) == []
    with staged(target):
        assert not target.exists()
    assert names(tmp_path) == ["out"]
    mask = os.umask(0)
    os.umask(mask)
    usual = 0o777 if target.is_dir() else 0o666
    assert target.stat().st_mode & 0o777 == usual & ~mask


def test_a_directory_is_replaced_only_where_that_is_asked(tmp_path: Path) -> None:
    target = tmp_path / "out"
    for content in ("old", "new"):
        with staged_directory(target, replace=True) as stage:
            (stage / "file").write_text(content)
        assert (target / "file").read_text() == content
    with (
        pytest.raises(OptionError, match="something else was written there"),
        staged_directory(target) as stage,
    ):
        (stage / "file").write_text("third")
    assert (target / "file").read_text() == "new"
    assert names(tmp_path) == ["out"]
    discard(target)
    discard(target)
    assert names(tmp_path) == []


def test_a_name_may_be_as_long_as_a_name_can_be(tmp_path: Path) -> None:
    target = tmp_path / ("🙂" * 63)
    with staged_file(target) as stage:
        stage.write_text("x")
    assert target.read_text() == "x"


def test_a_stage_that_is_taken_for_abandoned_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between making and locking it another process may remove it."""
    from gpt2fast.files import atomic

    new, made = atomic._new_directory, []

    def unlucky(target: Path) -> tuple[Path, int]:
        stage, descriptor = new(target)
        made.append(stage)
        if len(made) == 1:
            clear_abandoned(target)
        return stage, descriptor

    monkeypatch.setattr(atomic, "_new_directory", unlucky)
    with staged_directory(tmp_path / "out") as stage:
        (stage / "file").write_text("x")
    assert len(made) == 2
    assert (tmp_path / "out" / "file").read_text() == "x"


def test_one_process_has_a_directory_to_itself(tmp_path: Path) -> None:
    with exclusive(tmp_path):
        with pytest.raises(OptionError, match="another process is at work"), exclusive(tmp_path):
            pass
        code = "import sys; from pathlib import Path; from gpt2fast.files.lock import exclusive\n"
        code += "with exclusive(Path(sys.argv[1])): pass"
        done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True)
        assert b"another process is at work there" in done.stderr
    with exclusive(tmp_path):
        pass


def test_json_is_written_whole(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    write_json(path, {"a": "ü"})
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert read_json_object(path) == {"a": "ü"}
    assert names(tmp_path) == ["x.json"]
