"""One system in a process of its own: ``python -m gpt2fast.bench.worker SYSTEM DIRECTORY``."""

from __future__ import annotations

import re
import resource
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpt2fast.bench.request_loop import answer_requests

if TYPE_CHECKING:
    from gpt2fast.bench.peers.base import Adapter

# A first disagreement where the two best logits are closer than this is rounding, not a mistake.
_TIE = 1e-3


class Worker:
    """Holds one adapter and answers requests by the method of the same name."""

    def __init__(self, adapter: Adapter) -> None:
        self._adapter = adapter

    def versions(self) -> dict[str, Any]:
        return {"versions": self._adapter.versions()}

    def convert(self, checkpoint: str, format: str) -> dict[str, Any]:
        """The artifact to load, made if it is not there yet."""
        return {"artifact": str(self._adapter.convert(Path(checkpoint), format))}

    def load(
        self,
        artifact: str,
        format: str,
        threads: int,
        context: int,
        batch: int,
        options: dict[str, str],
    ) -> dict[str, Any]:
        """Seconds until it is ready, and the bytes that a decode step reads."""
        start = time.perf_counter()
        self._adapter.load(Path(artifact), format, threads, context, batch, **options)
        return {
            "seconds": time.perf_counter() - start,
            "weight_bytes": self._adapter.weight_bytes(),
            "kv_bytes_per_token": self._adapter.kv_bytes_per_token(),
            "peak_memory": peak_memory(),
        }

    def generate(self, prompts: list[list[int]], new_tokens: int) -> dict[str, Any]:
        """Seconds from the call to each step's tokens, and the peak of memory meanwhile."""
        forget_peak_memory()
        start = time.perf_counter()
        tokens, times = self._adapter.generate(prompts, new_tokens, time.perf_counter)
        counts = {len(row) for row in tokens}
        if len(times) != new_tokens or counts != {new_tokens}:
            raise RuntimeError(
                f"{new_tokens} tokens were asked for; {sorted(counts)} tokens and {len(times)} "
                "times came"
            )
        return {
            "times": [moment - start for moment in times],
            "tokens": [[int(token) for token in row] for row in tokens],
            "peak_memory": peak_memory(),
        }

    def ties(self, prompt: list[int], tokens: list[int]) -> dict[str, Any]:
        """Which of ``tokens``, generated after ``prompt``, won by so little that it may differ."""
        import numpy as np

        rows = self._adapter.logits([*prompt, *tokens])[len(prompt) - 1 : -1]
        best = np.sort(rows, axis=1)[:, -2:]
        return {"ties": [bool(tie) for tie in (best[:, 1] - best[:, 0]) < _TIE]}

    def nats(self, tokens: list[int], counted: int) -> dict[str, Any]:
        """Negative log-likelihood of the last ``counted`` of ``tokens``; None if not on offer."""
        from gpt2fast.evaluate.scoring import token_nats
        from gpt2fast.evaluate.windows import Window

        window = Window(tuple(tokens), counted, group=0)
        try:
            nats = token_nats(lambda ids: self._adapter.logits(list(ids)), [window])
        except NotImplementedError:
            return {"nats": None}
        return {"nats": float(nats.sum())}

    def close(self) -> dict[str, Any]:
        self._adapter.close()
        return {}


def peak_memory() -> int:
    """Bytes: the largest resident set since the start or ``forget_peak_memory``."""
    try:
        # Not getrusage: where the process was forked, its peak includes that of the parent.
        status = Path("/proc/self/status").read_text()
        return 1024 * int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0])
    except (OSError, IndexError):
        unit = 1 if sys.platform == "darwin" else 1024
        return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def forget_peak_memory() -> None:
    """Let the peak start from what is resident now, where the system can do that."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def main(system: str, directory: str) -> None:
    """Answer requests until the input ends."""

    def make() -> Worker:
        from gpt2fast.bench import peers

        return Worker(peers.make_adapter(system, Path(directory)))

    answer_requests(make)


if __name__ == "__main__":
    main(*sys.argv[1:])
