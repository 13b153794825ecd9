"""Messages name the flags of the command line, and not the options of Python."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpt2fast.cli import main
from gpt2fast.cli.flag_names import in_flags

NAMES = ("precision", "num_threads")


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ("precision = 'int5' is not known; use int4", "--precision int5 is not known; use int4"),
        ("num_threads=0: a number is needed", "--num-threads 0: a number is needed"),
        ("num_threads = -5 is not allowed; give", "--num-threads -5 is not allowed; give"),
        ("precision='int4', or num_threads=2", "--precision int4, or --num-threads 2"),
        ("the precision is what it is", "the precision is what it is"),
        ("my_precision = 3, device='torch'", "my_precision = 3, device='torch'"),
    ],
)
def test_options_become_flags(message: str, said: str) -> None:
    assert in_flags(message, NAMES) == said


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
