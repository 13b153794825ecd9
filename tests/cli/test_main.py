"""The command line: one clear line for bad input, the right exit code, and a light start."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest

from gpt2fast.cli import dispatch, info, main
from gpt2fast.errors import CheckpointError


def run(*args: str, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "gpt2fast", *args]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, **options)


def test_bad_input_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    done = run("info", str(tmp_path))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"gpt2fast: error: {tmp_path}/config.json: cannot be read")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ([], "gpt2fast: error: the following arguments are required: COMMAND"),
        (["nonsense"], "gpt2fast: error: argument COMMAND: invalid choice: 'nonsense'"),
        (["info"], "gpt2fast info: error: the following arguments are required: MODEL"),
        (
            ["generate", "demo", "import", "os"],
            "gpt2fast generate: error: unknown arguments: os; put a prompt of several words in "
            "quotes",
        ),
        (["info", "x", "--nonsense"], "gpt2fast info: error: unknown arguments: --nonsense"),
        (["info", "x", "--revis=1"], "gpt2fast info: error: unknown arguments: --revis=1"),
        (["train", "x", "--out=y", "--resum"], "gpt2fast train: error: unknown arguments"),
    ],
)
def test_a_wrong_argument_is_one_line(
    args: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(args)
    assert caught.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(says)
    assert err.endswith(f"; see {says.partition(': error')[0]} --help\n")
    assert err.count("\n") == 1


@pytest.mark.parametrize("command", dispatch.COMMANDS)
def test_every_subcommand_has_help_with_an_example(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main([command, "--help"])
    assert caught.value.code == 0
    assert f"gpt2fast {command} " in capsys.readouterr().out.partition("example")[2]


@pytest.mark.parametrize("width", ["50", "60", "80"])
def test_help_breaks_no_name_at_its_hyphens(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], width: str
) -> None:
    monkeypatch.setenv("COLUMNS", width)
    with pytest.raises(SystemExit):
        main(["bench", "--help"])
    help_text = capsys.readouterr().out.partition("examples:")[0]
    assert "transformers-sdpa" in help_text
    assert not [line for line in help_text.splitlines() if line.endswith("-")]


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (CheckpointError("a file\nis wrong"), 2, "gpt2fast: error: a file is wrong\n"),
        (KeyboardInterrupt(), 130, ""),
        (OSError(28, "No space left on device", "out"), 1, "out: No space left on device\n"),
        (MemoryError(), 1, "gpt2fast: error: memory ran out"),
        (ImportError("x.so: failed to map segment from shared object"), 1, "memory ran out"),
    ],
)
def test_exit_codes(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    code: int,
    says: str,
) -> None:
    def fail(args: Any) -> int:
        raise error

    monkeypatch.setattr(info, "run", fail)
    assert main(["info", "x"]) == code
    assert says in capsys.readouterr().err


@pytest.mark.parametrize("bug", [ZeroDivisionError(), ImportError("no module 'nonsense'")])
def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch, bug: Exception) -> None:
    def fail(args: Any) -> int:
        raise bug

    monkeypatch.setattr(info, "run", fail)
    with pytest.raises(type(bug)):
        main(["info", "x"])


def test_warnings_are_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def warn(args: Any) -> int:
        warnings.warn("odd", stacklevel=1)
        return 0

    monkeypatch.setattr(info, "run", warn)
    assert main(["info", "x"]) == 0
    assert capsys.readouterr().err == "gpt2fast: warning: odd\n"


def test_closed_pipe_is_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        "import sys; from gpt2fast import cli; from gpt2fast.cli import info\n"
        "def flood(args):\n    while True: print('x' * 1000)\n"
        "info.run = flood\nsys.exit(cli.main(['info', 'x']))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(10)
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(30) == 141


def test_the_parser_is_light() -> None:
    code = (
        "import sys, time; start = time.perf_counter()\n"
        "import importlib; from gpt2fast.cli import dispatch, parser\n"
        "modules = {n: importlib.import_module('gpt2fast.cli.' + n) for n in dispatch.COMMANDS}\n"
        "parser.build_parser(modules)\n"
        "print(time.perf_counter() - start)\n"
        "print(sorted({'numpy', 'torch', 'tokenizers', 'safetensors'} & set(sys.modules)))"
    )
    done = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        for _ in range(5)
    ]
    seconds, heavy = zip(*(each.stdout.splitlines() for each in done), strict=True)
    assert set(heavy) == {"[]"}
    # 0.03 to 0.06 s as a rule; the bound leaves room for a busy machine.
    assert min(map(float, seconds)) < 0.25


def test_an_interrupted_import_is_quiet() -> None:
    code = (
        "import sys\n"
        "class Interrupt:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'gpt2fast.cli.parser': raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Interrupt())\n"
        "from gpt2fast.cli import main\n"
        "sys.exit(main(['info', 'x']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (130, b"", b"")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such locale")
@pytest.mark.parametrize("arguments", ["$'h\\xc3\\xa9'", "<<< $'h\\xc3\\xa9'"])
def test_a_prompt_in_utf8_where_the_locale_is_c(arguments: str) -> None:
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    script = f"{sys.executable} -m gpt2fast generate demo {arguments} --max-tokens 1 --json"
    done = subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, timeout=60, env=environment
    )
    assert done.stderr == ""
    assert json.loads(done.stdout)["prompt"].rstrip() == "hé"


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        ("--version | true; exit ${PIPESTATUS[0]}", 141, ""),
        ("--version >/dev/full", 1, "gpt2fast: error: standard output: No space left on device\n"),
        ("--version >&-", 1, "gpt2fast: error: standard output is closed"),
        ("info /nonsense 2>&-", 2, ""),
        ("info /nonsense 2>/dev/full", 2, ""),
        ("generate demo <&-", 2, "gpt2fast: error: standard input is closed"),
        ("generate demo x >&-", 1, "gpt2fast: error: standard output is closed"),
        ("generate demo <<< $'a\\xff'", 2, "is not valid UTF-8: byte 0xff after 1 characters"),
        ("generate demo $'a\\xff'", 2, "is not valid UTF-8: byte 0xff after 1 characters"),
    ],
)
def test_streams_in_any_state(arguments: str, code: int, says: str) -> None:
    environment = {**os.environ, "PYTHONUTF8": "1"}
    if "| true" in arguments:  # else the pipe could close after the line is through
        arguments = arguments.replace("| true", "| (exec <&-; true)")
        environment["PYTHONUNBUFFERED"] = ""
    script = f"{sys.executable} -m gpt2fast {arguments}"
    done = subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, timeout=60, env=environment
    )
    assert done.returncode == code
    assert says in done.stderr
    assert done.stderr.count("\n") <= 1
    assert done.stdout == ""
