"""Control characters of prompts, models and files do not reach a terminal; pipes get all bytes."""

from __future__ import annotations

import io
import json
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from gpt2fast.cli import main, streams
from gpt2fast.terminal import escape, text_table
from support.engine.mock_runner import EOS, byte_tokenizer

HOSTILE = "a\x1b[31m\r\x08\x07\x7f\x9b2J\u202e\u2066\u2028é\t\nb"
ESCAPED = "a\\x1b[31m\\x0d\\x08\\x07\\u007f\\u009b2J\\u202e\\u2066\\u2028é\t\nb"
FORBIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\u2028]")
SIZES = {"vocab_size": 300, "n_positions": 96, "n_embd": 32, "n_layer": 2, "n_head": 4}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@contextmanager
def terminals() -> Iterator[tuple[Terminal, Terminal]]:
    with redirect_stdout(Terminal()) as out, redirect_stderr(Terminal()) as err:
        yield out, err


@pytest.fixture(scope="module")
def model(make_checkpoint: Callable[..., tuple[Path, Any]]) -> Path:
    path, _ = make_checkpoint(std=0.2, eos_token_id=EOS, bos_token_id=EOS, **SIZES)
    byte_tokenizer().save(str(path / "tokenizer.json"))
    return path


def test_escape() -> None:
    assert escape(HOSTILE) == ESCAPED
    kept = "plain text, \u200f\u05d0, 👩‍👩‍👧, ½\n\t"
    assert escape(kept) == kept
    text = json.dumps({"text": HOSTILE}, ensure_ascii=False)
    assert json.loads(escape(text)) == {"text": HOSTILE}
    assert not FORBIDDEN.search(escape("".join(map(chr, range(0x3000)))))


def test_a_table_has_a_line_for_each_row_however_wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    rows = [["", "tok/s", "of limit"], ["a\r\nname", "1.0", ""], ["b" * 90, "100.0", "0.5"]]
    lines = text_table(rows, "<>", indent="  ").split("\n")
    assert lines == [
        "  " + " " * 90 + "  tok/s  of limit",
        "  " + "a name".ljust(90) + "    1.0",
        "  " + "b" * 90 + "  100.0       0.5",
    ]


@pytest.mark.parametrize(
    "options", [[], ["--n=2", "--seed=1"], ["--beam-width=2"], ["--json"], ["--prompt-ids=27,97"]]
)
def test_prompts_and_generated_text(model: Path, options: list[str]) -> None:
    # The model likes escape characters and the byte of half of a C1 control.
    bias = [] if "--beam-width=2" in options else ["--logit-bias=27=30", "--logit-bias=13=30"]
    prompt = [] if options and "ids" in options[0] else [HOSTILE]
    with terminals() as (out, _):
        assert main(["generate", str(model), *prompt, "--max-tokens=12", *bias, *options]) == 0
    text = out.getvalue()
    assert not FORBIDDEN.search(text)
    assert "x1b" in text or "u001b" in text
    assert "--json" not in options or json.loads(text)["prompt"] == HOSTILE


def test_a_pipe_gets_the_text_as_it_is(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", str(model), HOSTILE, "--max-tokens=1", "--temperature=0"]) == 0
    assert capsys.readouterr().out.startswith(HOSTILE)


@pytest.mark.parametrize("command", ["generate", "info"])
def test_names_of_files_and_options(model: Path, tmp_path: Path, command: str) -> None:
    prompt = ["a"] if command == "generate" else []
    named = shutil.copytree(model, tmp_path / "a\x1b[31m\x9b")
    with terminals() as (out, err):
        assert main([command, f"/no/{HOSTILE}", *prompt]) == 2
        with pytest.raises(SystemExit):
            main([command, "x", "--\x1b[2J"])
        assert main([command, str(named), *prompt]) == 0
    file = named / "config.json"
    fields = json.loads(file.read_text())
    file.write_text(json.dumps({**fields, "activation_function": "\x1b]0;title\x07\x9b"}))
    with terminals() as (_, more):
        assert main([command, str(named), *prompt]) == 2
    for stream in (out, err, more):
        assert not FORBIDDEN.search(stream.getvalue())
    assert (err.getvalue().count("\n"), more.getvalue().count("\n")) == (2, 1)


def test_only_the_stream_that_is_a_terminal_is_escaped() -> None:
    with terminals() as (_, err), redirect_stdout(io.StringIO()) as pipe:
        streams.write("\x1b[0m")
        streams.say("\x1b[0m")
    assert (pipe.getvalue(), err.getvalue()) == ("\x1b[0m", "\\x1b[0m\n")
