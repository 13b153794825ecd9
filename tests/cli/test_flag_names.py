"""Messages of the library, with the names of flags for users of the command line."""

from __future__ import annotations

import importlib

import pytest

from gpt2fast.cli import dispatch, main
from gpt2fast.cli.flag_names import in_flags
from gpt2fast.cli.parser import parse_arguments

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
