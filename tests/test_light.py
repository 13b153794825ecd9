"""Promise: running a model needs no torch, starts at once, and holds the weights once."""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import time
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CORE = ("numpy", "safetensors", "tokenizers", "huggingface_hub")
HEAVY = ("torch", "transformers", "accelerate", "matplotlib", "tqdm")


def run(code: str, *arguments: str, python: str = sys.executable) -> str:
    done = subprocess.run(
        [python, "-c", code, *arguments], capture_output=True, text=True, timeout=900, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_generate_imports_nothing_heavy() -> None:
    code = f"""
import sys
from gpt2fast.cli import main
assert main(["generate", "demo", "import", "--max-tokens", "4", "--temperature", "0.8"]) == 0
loaded = set({HEAVY!r}) & set(sys.modules)
assert not loaded, loaded
"""
    assert run(code).startswith("import")


@pytest.mark.slow
def test_core_dependencies_are_enough_and_the_first_token_is_quick(tmp_path: Path) -> None:
    venv.create(tmp_path / "venv", with_pip=True)
    python = str(tmp_path / "venv" / "bin" / "python")
    pip = [python, "-m", "pip", "--disable-pip-version-check", "-q", "install"]
    constraints = ["-c", str(ROOT / "constraints.txt")]
    source = tmp_path / "source"
    shutil.copytree(
        ROOT, source, ignore=shutil.ignore_patterns(".venv*", "build", "runs", "*.so", ".git")
    )
    subprocess.run([*pip, *constraints, str(source)], check=True, timeout=900)
    listed = subprocess.run([python, "-m", "pip", "list"], capture_output=True, text=True)
    assert not [name for name in HEAVY[:3] if f"\n{name} " in listed.stdout]
    command = [str(tmp_path / "venv/bin/gpt2fast"), "generate", "demo", "def f(", "--max-tokens"]
    seconds = []
    for _ in range(7):
        start = time.perf_counter()
        subprocess.run([*command, "1"], check=True, capture_output=True, cwd=tmp_path)
        seconds.append(time.perf_counter() - start)
    print(f"process start to first token, and exit: median {statistics.median(seconds):.2f} s")
    assert statistics.median(seconds) <= 0.6


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_xl_peak_memory_is_little_more_than_its_weights() -> None:
    sys.path.insert(0, str(ROOT / "benchmarks"))
    from random_checkpoint import random_checkpoint

    path = random_checkpoint("gpt2-xl", ROOT / "build")
    code = r"""
import re, sys
from gpt2fast import LLM, SamplingParams
llm = LLM(sys.argv[1])
params = SamplingParams(temperature=0.0, max_tokens=8, ignore_eos=True)
assert len(llm.generate([list(range(32))], params)[0].outputs[0].token_ids) == 8
weights = 4 * llm.config.num_parameters
# Not getrusage: its peak includes that of the process which started this one.
peak = 1024 * int(re.search(r"VmHWM:\s+(\d+) kB", open("/proc/self/status").read())[1])
print(weights, peak)
"""
    weights, peak = map(int, run(code, os.fspath(path)).split()[-2:])
    print(f"weights {weights / 1e9:.2f} GB, peak {peak / 1e9:.2f} GB, {peak / weights:.3f}x")
    assert peak <= 1.15 * weights
