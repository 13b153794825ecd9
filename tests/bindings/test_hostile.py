"""The bindings survive every argument: some calls here, a million under the sanitizers."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpt2fast import _C
from support.hostile import FORMATS, KV_FORMATS, Hostile, Shared

ROOT = Path(__file__).resolve().parents[2]
CSRC = ROOT / "tests" / "csrc"


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    form=st.sampled_from(FORMATS),
    kv=st.sampled_from(KV_FORMATS),
    random=st.randoms(use_true_random=False),
)
def test_a_call_is_served_or_refused_and_the_decoder_stays(
    form: tuple[str, int], kv: str, random: Random
) -> None:
    caller = Hostile(Shared(_C, form, kv), random)
    for _ in range(3):
        caller.call()
    caller.check()


def run_hostile(arguments: list[str], **environment: str) -> str:
    command = [sys.executable, ROOT / "tests" / "support" / "hostile.py", *arguments]
    path = f"{ROOT}{os.pathsep}{ROOT / 'tests'}"
    done = subprocess.run(
        command,
        env={**os.environ, "PYTHONPATH": path, **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-8000:]
    return done.stdout


def test_threads_may_call_at_the_same_time() -> None:
    assert "2000 calls" in run_hostile(["--calls", "2000", "--threads", "4"])


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.skipif(
    not (sys.platform == "linux" and shutil.which("make") and shutil.which("c++")),
    reason="needs Linux, make and a C++ compiler",
)
@pytest.mark.parametrize(
    ("sanitizers", "library", "more", "arguments"),
    [
        ("address,undefined", "libasan.so", [], ["--calls", "1000000"]),
        ("thread", "libtsan.so", ["PORTABLE=1"], ["--calls", "100000", "--threads", "4"]),
    ],
)
def test_under_sanitizers(
    sanitizers: str, library: str, more: list[str], arguments: list[str]
) -> None:
    options = [f"SANITIZE={sanitizers}", f"PYTHON={sys.executable}", "CXX=c++", *more]
    command = ["make", "-s", f"-j{os.cpu_count()}", "extension", *options]
    built = subprocess.run(command, cwd=CSRC, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr[-6000:]
    build = "-".join([sanitizers.replace(",", "-"), *(["portable"] if more else [])])
    # Python itself is linked to neither; exceptions are the second's.
    preloaded = [
        subprocess.check_output(["c++", f"-print-file-name={name}"], text=True).strip()
        for name in (library, "libstdc++.so")
    ]
    run_hostile(
        ["--extension", str(ROOT / "build" / f"csrc-{build}" / "python" / "_C.so"), *arguments],
        LD_PRELOAD=" ".join(preloaded),
        # Python keeps what it allocates until it ends; calls that ask for too much are among these.
        ASAN_OPTIONS="detect_leaks=0:allocator_may_return_null=1",
        UBSAN_OPTIONS="print_stacktrace=1",
        TSAN_OPTIONS="halt_on_error=1",
    )
