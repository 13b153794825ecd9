"""Commands that are killed at any moment: repeated, they come to the same, and nothing else is left
beside OUT; and commands that may not write large files, which say so."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

for needed in ("torch", "accelerate", "matplotlib", "onnxruntime", "onnx_ir", "yaml"):
    pytest.importorskip(needed)

from support.command_server import CommandServer  # noqa: E402

WINDOW = ["--batch-size=2", "--steps=30", "--log-every=5", "--save-every=5", "--eval-every=10"]
TEACHER = ["--vocab-size=270", "--n-embd=32", "--n-layer=2", "--n-head=2", "--n-positions=64"]
RECIPE = "passes:\n  - prune-neurons: {keep: 0.5, multiple: 1}\n  - quantize: {method: gptq}\n"
# Of times, of the random state of a process that nothing seeds, and of speeds.
VARYING = re.compile(
    r"metrics\.jsonl|checkpoints/.*/(random_states_0\.pkl|state\.json)"
    r"|README\.md|report\.json"
)


@dataclass(frozen=True)
class Place:
    """Where commands are run: what they read, and an empty directory of temporary files."""

    server: CommandServer
    text: Path
    teacher: Path
    temporary: Path
    log: Path

    def argv(self, command: str, out: Path) -> list[str]:
        text, teacher = str(self.text), str(self.teacher)
        recipe = str(self.text.parent / "recipe.yaml")
        return {
            "train": ["train", text, "--out", str(out), *TEACHER, *WINDOW, "--threads=1"],
            "distill": [
                *("distill", text, "--teacher", teacher, "--out", str(out), "--depth=1"),
                *(*WINDOW, "--samples=4", "--threads=1"),
            ],
            "export": ["export", teacher, str(out), "--precision=int8", "--num-threads=1"],
            "quantize": [
                *("quantize", teacher, str(out), "--quantization=int4", "--method=gptq"),
                *("--calibration", text, "--num-threads=1"),
            ],
            "compress": [
                *("compress", teacher, str(out), "--recipe", recipe, "--text", text),
                "--num-threads=1",
            ],
        }[command]

    def run(self, command: str, out: Path, **how: float) -> tuple[int, float]:
        return self.server.run(self.argv(command, out), self.log, **how)  # type: ignore[arg-type]

    @property
    def said(self) -> str:
        return self.log.read_text()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    root = tmp_path_factory.mktemp("killed")
    text, temporary = root / "text", root / "temporary"
    text.mkdir()
    temporary.mkdir()
    rng = np.random.default_rng(0)
    for index in range(8):
        words = rng.choice(["alpha", "beta", "gamma", "delta", "def", "return"], 1000)
        (text / f"{index}.txt").write_text(" ".join(words))
    (root / "recipe.yaml").write_text(RECIPE)
    server = CommandServer(temporary)
    made = Place(server, text, root / "teacher", temporary, root / "log")
    assert made.run("train", made.teacher)[0] == 0, made.said
    yield made
    server.close()


def contents(out: Path) -> dict[str, bytes]:
    files = [path for path in out.rglob("*") if path.is_file()]
    return {str(path.relative_to(out)): path.read_bytes() for path in files}


def same(found: dict[str, bytes], expected: dict[str, bytes], moved: tuple[Path, Path]) -> None:
    assert found.keys() == expected.keys()
    out, whole = (str(path).encode() for path in moved)
    for name, content in found.items():
        if not VARYING.fullmatch(name):
            assert content.replace(out, whole) == expected[name], name


def is_refused_as_finished(place: Place, command: str, out: Path) -> bool:
    """Commands whose OUT must be new cannot know whose the model in it is."""
    return command in ("export", "quantize") and f"{out} is a directory with files" in place.said


def check_kills(place: Place, command: str, root: Path, moments: list[float], whole: Path) -> None:
    """``moments``: shares of the time that the command takes."""
    seconds = place.run(command, root / "timed" / "out")[1]
    expected = contents(whole)
    usual = {path.name for path in place.temporary.iterdir()}  # caches of torch's
    for number, moment in enumerate(moments):
        out = root / f"{number}" / "out"
        kills = 1 + (number % 3 == 2)  # and some are killed again as they go on
        for _ in range(kills):
            code, _ = place.run(command, out, kill_after=moment * seconds)
            assert code in (-9, 0) or is_refused_as_finished(place, command, out), place.said
        code, _ = place.run(command, out)
        assert code == 0 or is_refused_as_finished(place, command, out), place.said
        same(contents(out), expected, (out, whole))
        assert [path.name for path in out.parent.iterdir()] == ["out"], f"killed at {moment:.2f}"
        assert {path.name for path in place.temporary.iterdir()} <= usual


def whole_run(place: Place, command: str, root: Path) -> Path:
    whole = root / "whole" / "out"
    assert place.run(command, whole)[0] == 0, place.said
    return whole


@pytest.mark.parametrize("command", ["train", "export"])
def test_a_killed_command_is_repeated(place: Place, command: str, tmp_path: Path) -> None:
    whole = whole_run(place, command, tmp_path)
    check_kills(place, command, tmp_path, [0.4, 0.8], whole)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("command", ["train", "distill", "export", "quantize", "compress"])
def test_25_moments(place: Place, command: str, tmp_path: Path) -> None:
    whole = whole_run(place, command, tmp_path)
    rng = random.Random(command)
    moments = [rng.uniform(0.02, 1.02) for _ in range(25)]
    check_kills(place, command, tmp_path, moments, whole)


@pytest.mark.parametrize("command", ["train", "distill", "export", "quantize", "compress"])
def test_a_limit_on_the_size_of_files_is_named(place: Place, command: str, tmp_path: Path) -> None:
    """It stands in for a full disk: a write fails half way, in whatever library."""
    out = tmp_path / "out"
    for limit in (100, 8_000, 30_000):
        code, _ = place.run(command, out, file_limit=limit)
        if code == 0:
            continue
        said = place.said.splitlines()[-1]
        assert code == 2, place.said
        found = re.fullmatch(r"gpt2fast: error: (\S+): cannot be written: (.*)", said)
        assert found, place.said
        assert found[1].startswith(str(out))
        assert ".partial" not in found[1]
        assert found[2].startswith(f"no file may have more than {limit:,} bytes here (ulimit -f);")
        left = [path.name for path in tmp_path.rglob("*.partial")]
        assert not left
    code, _ = place.run(command, out)
    assert code == 0 or is_refused_as_finished(place, command, out), place.said


def test_what_a_running_process_writes_is_left_alone(place: Place, tmp_path: Path) -> None:
    from gpt2fast.files.atomic import staged_directory

    out = tmp_path / "out"
    with staged_directory(out) as stage:
        (stage / "mine").write_text("mine")
        assert place.run("export", tmp_path / "out")[0] == 0, place.said
        assert (stage / "mine").is_file()
        (stage / "mine").unlink()
        for file in out.iterdir():
            file.unlink()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
