"""The checks' part: builds what is missing, the repository's GPU tests, compute-sanitizer."""

from __future__ import annotations

import importlib.util
import random
import re
import shutil
import sys
import time
from concurrent.futures import ThreadPoolExecutor

from gpu import kernels, rows
from gpu.process import ROOT, run_logged

TESTS = ("tests/kernels/triton", "tests/runners/test_cuda*.py")
_PROCESSES = 12
_BUILD_SECONDS, _SANITIZER_SECONDS = 240.0, 60.0
_SANITIZED = "tests/kernels/triton/test_layer_norm.py"
_SANITIZER_FOUND = 3  # exit code
_COUNT = re.compile(r"(\d+) (passed|failed|skipped|error|xfailed|xpassed|warning)s?\b")
_TAIL_CHARACTERS = 2000


def build(recorder: rows.Recorder) -> None:
    """Compile ``gpt2fast._C`` in place where this Python has none."""
    code, _ = run_logged([sys.executable, "-c", "import gpt2fast._C"], 60)
    if code == 0:
        return
    started = time.monotonic()
    install = ["-m", "pip", "install", "-q", "--no-build-isolation", "--no-deps", "-e", "."]
    in_place = ["setup.py", "-q", "build_ext", "--inplace"]
    text = ""
    for command in (install, in_place):
        seconds = min(_BUILD_SECONDS, recorder.left())
        code, text = run_logged([sys.executable, *command], seconds)
        if code == 0:
            took = time.monotonic() - started
            recorder.add(rows.make_row("build", text=f"{took:.0f}s", seconds=took))
            return
    how = "did not end in time" if code is None else f"ended with code {code}"
    message = f"{' '.join(command)} {how}. {text[-_TAIL_CHARACTERS:]}"
    recorder.add(rows.make_row("build", system="check", status=rows.ERROR, message=message))


def run(recorder: rows.Recorder) -> None:
    """The tests, then a few cases under the sanitizer."""
    recorder.case("tests", 20, lambda: tests(recorder), "check")
    recorder.case("compute-sanitizer", 15, lambda: sanitizer(recorder), "check")


def tests(recorder: rows.Recorder) -> None:
    """Counts of the GPU tests, run in parallel where pytest-xdist is there."""
    # The project's options have a -q; a second one would hide the counts. With -vv each test is
    # named as it ends: what failed is known where there was no time for the rest.
    files = [str(file) for pattern in TESTS for file in sorted(ROOT.glob(pattern))]
    command = [sys.executable, "-m", "pytest", *files, "-m", "not slow", "-vv"]
    command += ["-p", "no:cacheprovider", "--disable-warnings"]
    if _is_there("xdist"):
        command += ["-n", str(_PROCESSES)]
    seed = random.SystemRandom().randrange(1 << 32)
    if _is_there("hypothesis"):
        command.append(f"--hypothesis-seed={seed}")
    started = time.monotonic()
    # What the sanitizer may take is kept.
    code, text = run_logged(command, max(recorder.left() - _SANITIZER_SECONDS / 2, 15.0))
    recorder.add(tests_row(code, text, seed, time.monotonic() - started))


def tests_row(code: int | None, text: str, seed: int, seconds: float) -> rows.Row:
    """What pytest said; ``code`` None where it was ended."""
    counts = {name: int(n) for n, name in _COUNT.findall(text.strip().rpartition("\n")[2])}
    summary = ", ".join(f"{n} {name}" for name, n in counts.items()) or "no counts"
    status, message = rows.OK, ""
    if code != 0 or counts.get("failed") or counts.get("error"):
        how = f"not done after {seconds:.0f} s" if code is None else f"code {code}"
        status = rows.WRONG if code == 1 else rows.ERROR
        message = f"{how}, {summary}. {_failures(text)} {text[-_TAIL_CHARACTERS:]}"
    text_here = f"{summary}, {seconds:.0f}s, hypothesis seed {seed}"
    return rows.make_row(
        "tests", "", "check", text_here, status, message,
        counts=counts, seconds=seconds, seed=seed, tail=text[-2 * _TAIL_CHARACTERS :],
    )  # fmt: skip


def sanitizer(recorder: rows.Recorder) -> None:
    """Small runs under compute-sanitizer's memcheck, where it is installed."""
    tool = shutil.which("compute-sanitizer")
    if tool is None:
        message = "compute-sanitizer is not on the PATH"
        recorder.add(rows.make_row("compute-sanitizer", status=rows.SKIPPED, message=message))
        return
    pytest = ["-m", "pytest", _SANITIZED, "-k", "float16 and not bfloat16", "-x"]
    pytest += ["-p", "no:cacheprovider"]
    jobs = {_SANITIZED: pytest} | {op: kernels.small_run(op) for op in kernels.OPS}
    seconds = min(_SANITIZER_SECONDS, recorder.left())
    check = [tool, "--tool", "memcheck", "--error-exitcode", str(_SANITIZER_FOUND), sys.executable]
    # With torch's own allocator an access behind a tensor lands in another and is not seen.
    extra = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    with ThreadPoolExecutor(len(jobs)) as threads:
        found = list(
            threads.map(lambda job: run_logged([*check, *job], seconds, extra), jobs.values())
        )
    for name, (code, text) in zip(jobs, found, strict=True):
        recorder.add(_sanitizer_row(name, code, text))


def _sanitizer_row(name: str, code: int | None, text: str) -> rows.Row:
    errors = re.findall(r"ERROR SUMMARY: (\d+) error", text)
    if code == 0:
        return rows.make_row("compute-sanitizer", name, "check", "no errors")
    if code is None:  # the tool is slow; that says nothing about the kernels
        message = "not done in time"
        return rows.make_row("compute-sanitizer", name, status=rows.SKIPPED, message=message)
    is_wrong = code == _SANITIZER_FOUND and errors != ["0"]
    status = rows.WRONG if is_wrong else rows.ERROR
    message = f"code {code}, errors {errors}. {text[-_TAIL_CHARACTERS:]}"
    return rows.make_row("compute-sanitizer", name, "check", "", status, message)


def _failures(text: str) -> str:
    """Names of the tests that failed, so that they survive a long tail."""
    return " ".join(dict.fromkeys(re.findall(r"\bFAILED (\S+)", text)[:12]))


def _is_there(module: str) -> bool:
    return importlib.util.find_spec(module) is not None
