"""Messages of the library, with the names of flags for users of the command line."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from gpt2fast.cli import dispatch, main
from gpt2fast.cli.parser import parse_arguments
from gpt2fast.flag_names import in_flags

NAMES = ("top_p", "max_tokens", "stop_token_ids", "overflow", "stop", "n", "dtype")
FLAGS = {name: "--" + name.replace("_", "-") for name in NAMES}


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("top_p = 2.0 is not allowed", "--top-p 2.0 is not allowed"),
        ("set overflow='stop' (end there)", "set --overflow stop (end there)"),
        ('overflow = "slide", max_tokens = None;', "--overflow slide, --max-tokens none;"),
        ("raise max_tokens.", "raise --max-tokens."),
        ("n = 2: stop all n of the stop tokens", "--n 2: stop all n of the stop tokens"),
        ("stop = 'a b' is", "--stop 'a b' is"),
        ("/tmp/max_tokens/x, 'top_p', my_max_tokens, max_tokens_2", None),
        ("/x/config.json: dtype = 'int2', top_p = 3", None),
        ("--max-tokens 5, top-p", None),
        ("dtype='float16', or max_tokens=0: a", "--dtype float16, or --max-tokens 0: a"),
        ("max_tokens = -5 is not allowed; give", "--max-tokens -5 is not allowed; give"),
        ("file.dtype=1, my_dtype = 3, redtype=4", None),
    ],
)
def test_names(message: str, shown: str | None) -> None:
    assert in_flags(message, FLAGS) == (message if shown is None else shown)
    assert in_flags(message, {}) == message


@pytest.mark.parametrize("command", dispatch.COMMANDS)
def test_every_command_knows_its_flags(command: str) -> None:
    modules = {name: importlib.import_module(f"gpt2fast.cli.{name}") for name in dispatch.COMMANDS}
    needed = {"train": ["--out=y"], "distill": ["--out=y", "--teacher=x"], "bench": []}
    arguments = needed.get(command, ["x", "y"] if command in ("export", "quantize") else ["x"])
    try:
        _, flags = parse_arguments(modules, [command, *arguments])
    except SystemExit:
        pytest.skip("other arguments are required")
    assert "help" in flags
    assert all(flag.startswith("--") for flag in flags.values())


def test_warnings_name_flags(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "demo", "x", "--max-tokens=1", "--num-threads=999"]) == 0
    assert "gpt2fast: warning: --num-threads 999 exceeds the " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("export demo OUT --precision int5", "--precision int5 is not known; use one of auto, "),
        ("export demo OUT --target x", "--target x is not known; use one of ort, portable"),
        ("export demo OUT --num-threads 0", "--num-threads 0 is not allowed; give an integer"),
        ("quantize demo OUT --quantization int5", "--quantization int5 is not known"),
        ("quantize demo OUT --quantization int8 --num-threads 0", "--num-threads 0: a number"),
        ("compress demo OUT --max-loss 1% --num-threads 0", "--num-threads 0 is not valid"),
        ("train x --out OUT --threads 0", "--threads 0 is not valid"),
        ("distill x --teacher demo --out OUT --threads 0", "--threads 0 is not valid"),
    ],
)
def test_commands(
    words: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = [word.replace("OUT", str(tmp_path / "out")) for word in words.split()]
    assert main(argv) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"gpt2fast: error: {says}"), said
    assert list(tmp_path.iterdir()) == []
