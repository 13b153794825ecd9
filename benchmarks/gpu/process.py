"""Parts in processes of their own: a fault of the GPU ends one of them, a time limit any."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).resolve().parents[2]

_TAIL_BYTES = 16_000
_MESSAGE_CHARACTERS = 600
_ERROR = re.compile(r"^[\w.]+(?:Error|Exception)\b.*", re.MULTILINE)


class ChildError(Exception):
    """A child that died or did not answer in time."""


class RefusedError(ChildError):
    """A child that answered with an error, and lives."""


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Of every child: this checkout is found whether it is installed or not, nothing is fetched,
    and kernels run on the GPU."""
    paths = [str(ROOT), str(ROOT / "benchmarks"), os.environ.get("PYTHONPATH", "")]
    found = os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONUNBUFFERED": "1",
        **(extra or {}),
    }
    found.pop("TRITON_INTERPRET", None)
    return found


class Child:
    """``python <command>``, which exchanges one JSON object a line with us."""

    def __init__(self, command: Sequence[str], extra: Mapping[str, str] | None = None) -> None:
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 (as long as the child)
        self._process = subprocess.Popen(
            [sys.executable, *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            cwd=ROOT,
            env=environment(extra),
            start_new_session=True,  # so that it can be ended with all that it started
        )
        self._lines: queue.Queue[bytes | None] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        with contextlib.suppress(OSError, ValueError):  # closed meanwhile
            for line in self._process.stdout:
                self._lines.put(line)
        self._lines.put(None)

    def send(self, message: Mapping[str, Any]) -> None:
        """Raises ``ChildError`` where it has died."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
            self._process.stdin.flush()
        except (OSError, ValueError):
            raise ChildError(self._death()) from None

    def receive(self, seconds: float) -> dict[str, Any] | None:
        """The next object, None where its output has ended well.

        Raises ``ChildError`` after ``seconds``, where it died, or with what an "error" says.
        """
        end = time.monotonic() + seconds
        while True:
            try:
                line = self._lines.get(timeout=max(end - time.monotonic(), 0.001))
            except queue.Empty:
                raise ChildError(f"no answer within {seconds:.0f} s. {self.tail()}") from None
            if line is None:
                self._lines.put(None)
                if self._wait(5.0) == 0:
                    return None
                raise ChildError(self._death())
            with contextlib.suppress(ValueError):
                found = json.loads(line)
                if isinstance(found, dict):
                    if "error" in found:
                        raise RefusedError(found["error"])
                    return found

    def ask(self, message: Mapping[str, Any], seconds: float) -> dict[str, Any]:
        """The answer to one request."""
        self.send(message)
        answer = self.receive(seconds)
        if answer is None:
            raise ChildError(self._death())
        return answer

    def tail(self) -> str:
        """The error that it died of, else the last that it wrote to standard error, in a line."""
        with contextlib.suppress(OSError, ValueError):
            size = self._log.seek(0, os.SEEK_END)
            self._log.seek(max(0, size - _TAIL_BYTES))
            text = self._log.read().decode("utf-8", "replace")
            errors = _ERROR.findall(text)  # libraries that are torn down may have the last word
            return " ".join((errors or [text])[-1].split())[-_MESSAGE_CHARACTERS:]
        return ""

    def kill(self) -> None:
        """End it and what it started, at once."""
        with contextlib.suppress(OSError):  # nobody left in the group
            os.killpg(self._process.pid, signal.SIGKILL)
        self._wait(10.0)
        for pipe in (self._process.stdin, self._log):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()

    def _wait(self, seconds: float) -> int | None:
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def _death(self) -> str:
        code = self._wait(5.0)
        how = f"signal {-code}" if code is not None and code < 0 else f"code {code}"
        return f"the process ended with {how}. {self.tail()}"


def stream(command: Sequence[str], seconds: float, take: Callable[[dict[str, Any]], None]) -> None:
    """Run a child and hand ``take`` each object until it ends. Raises ``ChildError``."""
    end, child = time.monotonic() + seconds, Child(command)
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


def replies() -> IO[str]:
    """Where a child answers; what libraries print goes to standard error from now on."""
    found = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return found


def reply(to: IO[str], message: Mapping[str, Any]) -> None:
    """Send one object."""
    to.write(json.dumps(message) + "\n")
    to.flush()
