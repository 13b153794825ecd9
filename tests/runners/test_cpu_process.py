"""The CPU runner beside forks, limits, foreign float modes and the end of its process."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support.model_grid import BASE

MakeCheckpoint = Callable[..., tuple[Path, Any]]

PRELUDE = """
import os, sys, threading, time
from gpt2fast import LLM, SamplingParams
greedy = SamplingParams(temperature=0.0, max_tokens=8, ignore_eos=True)
def tokens(llm):
    return list(llm.generate([[1, 2, 3]], greedy)[0].outputs[0].token_ids)
"""


def run(path: Path, code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", PRELUDE + code, str(path)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, (done.returncode, done.stderr)
    return done.stdout


def test_a_forked_child_generates_and_exits(make_checkpoint: MakeCheckpoint) -> None:
    code = """
llm = LLM(sys.argv[1], num_threads=2)
want = tokens(llm)
time.sleep(0.05)  # the workers park: the hard case
child = os.fork()
for _ in range(3):
    assert tokens(llm) == want
    time.sleep(0.01)
if child:
    _, status = os.waitpid(child, 0)
    assert status == 0, status
"""
    run(make_checkpoint(**BASE)[0], code)


def test_threads_that_cannot_be_had_are_an_error(make_checkpoint: MakeCheckpoint) -> None:
    pytest.importorskip("resource")
    code = """
import resource
from gpt2fast.errors import OptionError
llm = LLM(sys.argv[1], num_threads=1)
resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))
try:
    LLM(sys.argv[1], num_threads=1000)
except OptionError as error:
    assert "num_threads" in str(error), error
    print("refused")
tokens(llm)
"""
    assert run(make_checkpoint(**BASE)[0], code) == "refused\n"


def test_a_daemon_thread_in_a_step_does_not_abort_the_exit(make_checkpoint: MakeCheckpoint) -> None:
    code = """
llm = LLM(sys.argv[1], num_threads=2)
def forever():
    while True:
        tokens(llm)
for _ in range(2):
    threading.Thread(target=forever, daemon=True).start()
time.sleep(0.2)
"""
    run(make_checkpoint(**BASE)[0], code)


def test_the_callers_float_mode_does_not_reach_the_bits(make_checkpoint: MakeCheckpoint) -> None:
    pytest.importorskip("torch")
    code = """
import torch
llm = LLM(sys.argv[1], num_threads=2)
want = llm.logits(list(range(60))).tobytes()
assert torch.set_flush_denormal(True)
for _ in range(50):
    assert llm.logits(list(range(60))).tobytes() == want
assert float(torch.tensor([1e-39]) * 1.0) == 0.0  # the caller's own mode is left as it was
"""
    # Weights this small make subnormal numbers everywhere.
    run(make_checkpoint(**BASE, std=1e-20)[0], code)
