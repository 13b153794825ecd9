"""The workers of the models' part, which load and compile while the tests run."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gpt2fast.bench.process import Child, WorkerError
from gpu import rows
from gpu.process import ROOT, run_logged, start

REFERENCE = "transformers float32"
BASE = "gpt2fast float16"  # what the others are compared with
BATCHES = (1, 32, 128)
_CHECKPOINT_SECONDS = 120.0
_MAKE = (
    "import sys; from pathlib import Path; from gpt2fast.bench.sizes import random_checkpoint; "
    "random_checkpoint(sys.argv[1], Path(sys.argv[2]))"
)
# So many workers compile at a time; each would start a process for every core.
_COMPILER = {"TORCHINDUCTOR_COMPILE_THREADS": "4"}


@dataclass
class Member:
    """One system on one model.

    Attributes:
        kind, options: of ``gpu.worker``.
        batches: that it decodes.
        prefill: whether its prompts are timed.
        loaded: batches that it compiles for as it is loaded.
    """

    kind: str
    options: dict[str, Any]
    batches: tuple[int, ...] = ()
    prefill: bool = False
    loaded: tuple[int, ...] = (1,)
    child: Child = field(init=False)

    def start(self, path: Path) -> None:
        """Begin to load, without waiting for it."""
        spec = {"kind": self.kind, "path": str(path), "options": self.options}
        self.child = start(["-m", "gpu.worker", json.dumps(spec)], _COMPILER)
        self.child.send({"do": "load", "batches": list(self.loaded)})


def members(size: str, is_first: bool) -> dict[str, Member]:
    """The systems of a size, by name: all on the first one, ours in float32 among them, for
    agreement alone; the loop is compiled for larger batches where that takes seconds."""
    half = {"dtype": "float16", "device": "cuda"}
    ours = {"device": "cuda"}
    small = (1, 32) if size == "gpt2" else (1,)
    found = {
        BASE: Member("Ours", {"dtype": "float16", **ours}, BATCHES, True, BATCHES),
        "gpt2fast int8": Member("Ours", {"quantization": "int8", **ours}, BATCHES, True, BATCHES),
        "gpt2fast int4": Member("Ours", {"quantization": "int4", **ours}, BATCHES, True, BATCHES),
        "transformers eager float16": Member(
            "Transformers", {"attention": "eager", **half}, (1,), True
        ),
        "transformers sdpa float16": Member("Transformers", half, BATCHES, True),
        "torch.compile loop float16": Member("CompiledLoop", half, small, False, small),
        "torch.compile generate float16": Member("CompiledGenerate", half, (1,)),
        REFERENCE: Member("Transformers", {"dtype": "float32", "device": "cuda"}),
    }
    if is_first:
        found["gpt2fast float32"] = Member("Ours", {"dtype": "float32", **ours})
    else:  # all sizes are loaded at once, and 80 GB must do
        del found["transformers eager float16"], found["torch.compile generate float16"]
    return found


class Fleet:
    """All workers of all sizes. ``rows`` tells what loading took, or why it failed."""

    def __init__(self, sizes: Sequence[str], root: Path = ROOT / "build") -> None:
        self.sizes, self.root = list(sizes), root
        self.rows: list[rows.Row] = []
        self.members: dict[str, dict[str, Member]] = {}
        self.built = threading.Event()  # the package; set by whoever builds it
        self._closed = False
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._start, daemon=True)

    def start(self) -> None:
        """Make the checkpoints that are missing and start the workers, in the background."""
        self._thread.start()

    def _start(self) -> None:
        for size in self.sizes:
            started = time.monotonic()
            command = [sys.executable, "-c", _MAKE, size, str(self.root)]
            code, text = run_logged(command, _CHECKPOINT_SECONDS)
            if code != 0:
                message = text or f"not made within {_CHECKPOINT_SECONDS:.0f} s"
                self._add(size, "checkpoint", "gpt2fast", message=message)
                continue
            self._add(size, "checkpoint", "", f"{time.monotonic() - started:.1f}s")
            self.built.wait()
            with self._lock:
                if self._closed:
                    return
                self.members[size] = {}
                for name, member in members(size, size == self.sizes[0]).items():
                    try:
                        member.start(self.root / f"random-{size}")
                        self.members[size][name] = member
                    except (OSError, WorkerError) as error:  # noqa: PERF203
                        self._add(size, "load", name, message=rows.describe(error))

    def wait(self, seconds: float) -> None:
        """Until all workers are ready; those that are not after ``seconds`` are ended."""
        end = time.monotonic() + seconds
        self._thread.join(max(seconds, 1.0))
        with self._lock:
            for size, team in self.members.items():
                for name in list(team):
                    self._wait_for(size, name, max(end - time.monotonic(), 1.0))

    def _wait_for(self, size: str, name: str, seconds: float) -> None:
        try:
            found = self.members[size][name].child.answer(seconds)
        except WorkerError as error:
            self._add(size, "load", name, message=str(error))
            self.members[size].pop(name).child.kill()
        else:
            text = f"{found['load']:.1f}s + {found['warm']:.1f}s"
            self._add(size, "load", name, text, seconds=found["load"], warm_seconds=found["warm"])

    def release(self, size: str) -> None:
        """End the workers of a size."""
        for member in self.members.pop(size, {}).values():
            member.child.kill()

    def close(self) -> None:
        """End all workers."""
        with self._lock:
            self._closed = True
            self.built.set()
            for size in list(self.members):
                self.release(size)

    def _add(self, size: str, at: str, name: str, text: str = "", **fields: Any) -> None:
        status = rows.ERROR if "message" in fields else rows.OK
        self.rows.append(rows.make_row(size, at, name, text, status=status, **fields))
