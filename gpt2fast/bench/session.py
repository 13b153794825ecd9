"""The other end of a worker: requests with a time limit, and a death that is reported at once."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from gpt2fast.flag_names import in_flags

_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "RAYON_NUM_THREADS",
)
# Of the options of ``LLM`` that the command sets.
_FLAGS = {
    "kv_cache_dtype": "--kv-cache-dtype",
    "quantization": "--format",
    "dtype": "--format",
    "num_threads": "--threads",
}
_LAST_LINES = 3
_CLOSING_SECONDS = 10.0
# A worker is idle when it uses less than a tenth of a core over this time.
_IDLE_WINDOW, _IDLE_SHARE = 0.05, 0.1


class WorkerError(Exception):
    """A request failed. ``kind``: missing, unsupported, failed, died or timeout."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind
        self.reason = reason


class Session:
    """A running worker. Raises ``WorkerError`` for anything that goes wrong with it."""

    def __init__(self, system: str, work: Path, threads: int, timeout: float) -> None:
        self._system = system
        self._timeout = timeout
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 (as long as the session)
        self._buffer = b""
        self.started = time.perf_counter()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "gpt2fast.bench.worker", system, str(work)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=_environment(threads),
            # Ctrl-C is for the parent, which ends its workers in order.
            start_new_session=True,
        )

    def ask(self, do: str, **fields: Any) -> dict[str, Any]:
        """The worker's answer to one request."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"do": do, **fields}).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._death() from None
        reply = json.loads(self._read_line(do))
        if "error" in reply:
            reason = in_flags(reply["error"]["reason"], _FLAGS)
            raise WorkerError(reply["error"]["kind"], reason)
        answer: dict[str, Any] = reply["ok"]
        return answer

    def settle(self, limit: float = 3.0) -> bool:
        """Wait until the worker's threads have stopped spinning; False if they do not.

        Where the system does not tell a process's CPU time, a fixed pause has to do.
        """
        end = time.perf_counter() + limit
        used = self._cpu_seconds()
        if used is None:
            time.sleep(0.3)
            return True
        while time.perf_counter() < end:
            time.sleep(_IDLE_WINDOW)
            before, used = used, self._cpu_seconds() or 0.0
            if used - before <= _IDLE_SHARE * _IDLE_WINDOW:
                return True
        return False

    def close(self) -> None:
        """End the worker; one that does not end by itself is killed."""
        if self._process.poll() is None:
            with contextlib.suppress(OSError, ValueError):
                self._process.communicate(b'{"do": "close"}\n', timeout=_CLOSING_SECONDS)
        self.kill()

    def kill(self) -> None:
        """End the worker and what it started, at once."""
        with contextlib.suppress(OSError):  # nobody left in the group
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._log):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()

    def _read_line(self, do: str) -> bytes:
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        end = time.monotonic() + self._timeout
        while b"\n" not in self._buffer:
            ready, _, _ = select.select([descriptor], [], [], max(0.0, end - time.monotonic()))
            if not ready:
                raise WorkerError(
                    "timeout", f"{do} took more than {self._timeout:g} s; raise --timeout"
                )
            chunk = os.read(descriptor, 1 << 16)
            if not chunk:
                raise self._death()
            self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def _death(self) -> WorkerError:
        code = self._process.wait()
        if code < 0:
            how = f"killed by {signal.Signals(-code).name}"
            how += " (out of memory?)" if -code == signal.SIGKILL else ""
        else:
            how = f"ended with code {code}"
        said = self._last_lines()
        return WorkerError("died", f"the process was {how}" + (f": {said}" if said else ""))

    def _last_lines(self) -> str:
        self._log.seek(0)
        lines = [line.strip() for line in self._log.read().decode(errors="replace").splitlines()]
        return " | ".join([line for line in lines if line][-_LAST_LINES:])[-500:]

    def _cpu_seconds(self) -> float | None:
        try:
            stat = Path(f"/proc/{self._process.pid}/stat").read_text()
        except OSError:
            return None
        # The name in parentheses may hold spaces; user and system time are the fields 14 and 15.
        fields = stat.rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _environment(threads: int) -> dict[str, str]:
    """For a worker: thread counts before any library reads them, this package, and no network."""
    package_root = str(Path(__file__).resolve().parents[2])
    paths = [package_root, *filter(None, [os.environ.get("PYTHONPATH")])]
    return {
        **os.environ,
        **dict.fromkeys(_THREAD_VARIABLES, str(threads)),
        "PYTHONPATH": os.pathsep.join(paths),
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
