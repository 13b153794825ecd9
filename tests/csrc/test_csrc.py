"""Builds the C++ tests under each sanitizer and runs them."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(
    not (shutil.which("make") and shutil.which("c++")), reason="needs make and a C++ compiler"
)


# Who races with whom does not depend on the instruction set.
@pytest.mark.parametrize(
    ("sanitizers", "more"), [("address,undefined", []), ("thread", ["PORTABLE=1"])]
)
def test_under_sanitizers(sanitizers: str, more: list[str]) -> None:
    command = ["make", "-s", f"-j{os.cpu_count()}", f"SANITIZE={sanitizers}", "CXX=c++", *more]
    done = subprocess.run(
        command, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    assert ", 0 failed" in done.stdout
    assert "warning:" not in done.stderr, done.stderr[-6000:]
