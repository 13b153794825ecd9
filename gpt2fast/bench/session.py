"""The other end of a worker: requests with a time limit, and a death that is reported at once."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from typing import Any

from gpt2fast.bench.process import Child, WorkerError, environment
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
_CLOSING_SECONDS = 10.0
# A worker is idle when it uses less than a tenth of a core over this time.
_IDLE_WINDOW, _IDLE_SHARE = 0.05, 0.1


class Session(Child):
    """A running worker of a system. Raises ``WorkerError`` for anything that goes wrong with it."""

    def __init__(self, system: str, work: Path, threads: int, timeout: float) -> None:
        self._timeout = timeout
        # Before any library reads them.
        counts = dict.fromkeys(_THREAD_VARIABLES, str(threads))
        super().__init__(["-m", "gpt2fast.bench.worker", system, str(work)], environment(**counts))

    def ask(self, do: str, **fields: Any) -> dict[str, Any]:
        """The worker's answer to one request."""
        try:
            self.send({"do": do, **fields})
            return self.answer(self._timeout)
        except WorkerError as error:
            if error.kind == "timeout":
                reason = f"{do} took more than {self._timeout:g} s; raise --timeout"
            else:
                reason = error.reason if error.is_lost else in_flags(error.reason, _FLAGS)
            raise WorkerError(error.kind, reason) from None

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
        with contextlib.suppress(WorkerError):  # it has ended
            self.send({"do": "close"})
        self._wait(_CLOSING_SECONDS)
        self.kill()

    def _cpu_seconds(self) -> float | None:
        try:
            stat = Path(f"/proc/{self._process.pid}/stat").read_text()
        except OSError:
            return None
        # The name in parentheses may hold spaces; user and system time are the fields 14 and 15.
        fields = stat.rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
