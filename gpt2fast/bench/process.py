"""A process that sends JSON, one object a line, from the side of who started it.

A request names a method of the other side, {"do": name, ...}; the answer is {"ok": result} or
{"error": {"kind", "reason"}}. A process may also send objects unasked. Needs no compiled core.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).resolve().parents[2]
_TAIL_BYTES, _MESSAGE_CHARACTERS, _LAST_LINES = 16_000, 600, 3
_ERROR = re.compile(r"^[\w.]+(?:Error|Exception)\b.*", re.MULTILINE)
_ENDING_SECONDS = 5.0
_LOST = ("died", "timeout")


class WorkerError(Exception):
    """A request failed. ``kind``: missing, unsupported, failed, died or timeout."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind
        self.reason = reason

    @property
    def is_lost(self) -> bool:
        """Whether the process can be asked nothing more."""
        return self.kind in _LOST


def environment(*paths: Path, **variables: str) -> dict[str, str]:
    """For a child: it finds this package, installed or not, and ``paths``; nothing is fetched."""
    given = os.environ.get("PYTHONPATH")
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([*map(str, (_ROOT, *paths)), *([given] if given else [])]),
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        **variables,
    }


class Child:
    """``python <command>``. Raises ``WorkerError`` for anything that goes wrong with it."""

    def __init__(
        self, command: Sequence[str], variables: Mapping[str, str], directory: Path | None = None
    ) -> None:
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 (as long as the child)
        self._buffer = b""
        self.started = time.perf_counter()
        self._process = subprocess.Popen(
            [sys.executable, *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=variables,
            cwd=directory,
            # Ctrl-C is for the parent, which ends its children, and what they started, in order.
            start_new_session=True,
        )

    def send(self, message: Mapping[str, Any]) -> None:
        """Hand over a request without waiting for its answer."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
            self._process.stdin.flush()
        except (OSError, ValueError):
            raise self._death() from None

    def answer(self, seconds: float) -> dict[str, Any]:
        """The result of the request that was sent."""
        found = self.receive(seconds)
        if found is None:
            raise self._death()
        result: dict[str, Any] = found["ok"]
        return result

    def receive(self, seconds: float) -> dict[str, Any] | None:
        """The next object that comes within ``seconds``; None where the process has ended well.

        What is no object, because a library printed it, is passed over.
        """
        end = time.monotonic() + seconds
        while (line := self._read_line(end, seconds)) is not None:
            with contextlib.suppress(ValueError):
                found = json.loads(line)
                if isinstance(found, dict):
                    if "error" in found:
                        raise WorkerError(**found["error"])
                    return found
        if self._wait(_ENDING_SECONDS) != 0:
            raise self._death()
        return None

    def kill(self) -> None:
        """End the process and what it started, at once."""
        with contextlib.suppress(OSError):  # nobody left in the group
            os.killpg(self._process.pid, signal.SIGKILL)
        self._wait(2 * _ENDING_SECONDS)
        for pipe in (self._process.stdin, self._process.stdout, self._log):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()

    def _read_line(self, end: float, seconds: float) -> bytes | None:
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        while b"\n" not in self._buffer:
            left = max(0.0, end - time.monotonic())
            if not select.select([descriptor], [], [], left)[0]:
                reason = f"no answer within {seconds:.0f} s{self._last_words()}"
                raise WorkerError("timeout", reason)
            chunk = os.read(descriptor, 1 << 16)
            if not chunk:
                return None
            self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def _wait(self, seconds: float) -> int | None:
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def _death(self) -> WorkerError:
        code = self._wait(_ENDING_SECONDS)
        if code is None:
            how = "closed its output"
        elif code < 0:
            how = f"was killed by {signal.Signals(-code).name}"
            how += " (out of memory?)" if -code == signal.SIGKILL else ""
        else:
            how = f"ended with code {code}"
        return WorkerError("died", f"the process {how}{self._last_words()}")

    def _last_words(self) -> str:
        """The error that it died of, else the last that it wrote to standard error, in a line."""
        if self._log.closed:  # it was killed
            return ""
        size = self._log.seek(0, os.SEEK_END)
        self._log.seek(max(0, size - _TAIL_BYTES))
        text = self._log.read().decode(errors="replace")
        # Libraries that are torn down may have the last word behind the error.
        errors = _ERROR.findall(text)[-1:]
        lines = [line.strip() for line in errors or text.splitlines()]
        said = " | ".join([line for line in lines if line][-_LAST_LINES:])[-_MESSAGE_CHARACTERS:]
        return f": {said}" if said else ""
