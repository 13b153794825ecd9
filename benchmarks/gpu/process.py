"""Parts in processes of their own: a fault of the GPU ends one of them, a time limit any."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gpt2fast.bench.process import Child, WorkerError
from gpt2fast.bench.process import environment as offline

__all__ = ["ROOT", "WorkerError", "environment", "run_logged", "start", "stream"]

ROOT = Path(__file__).resolve().parents[2]


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Of every child: nothing is fetched, and kernels run on the GPU."""
    found = offline(ROOT / "benchmarks", PYTHONUNBUFFERED="1", **(extra or {}))
    found.pop("TRITON_INTERPRET", None)
    return found


def start(command: Sequence[str], extra: Mapping[str, str] | None = None) -> Child:
    """``python <command>``."""
    return Child(command, environment(extra), ROOT)


def stream(command: Sequence[str], seconds: float, take: Callable[[dict[str, Any]], None]) -> None:
    """Run a child and hand ``take`` each object until it ends. Raises ``WorkerError``."""
    end, child = time.monotonic() + seconds, start(command)
    try:
        while (found := child.receive(end - time.monotonic())) is not None:
            take(found)
    finally:
        child.kill()


def run_logged(
    command: Sequence[str], seconds: float, extra: Mapping[str, str] | None = None
) -> tuple[int | None, str]:
    """Exit code, None after ``seconds``, and all that ``command`` printed."""
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, cwd=ROOT,
            env=environment(extra), start_new_session=True,
        )  # fmt: skip
        try:
            code: int | None = process.wait(max(seconds, 0.1))
        except subprocess.TimeoutExpired:
            code = None
        finally:
            with contextlib.suppress(OSError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        log.seek(0)
        return code, log.read().decode("utf-8", "replace")
