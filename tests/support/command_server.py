"""Commands in processes of their own that start at once: each is forked from one that has imported
what they need. Reads a JSON object a line, {"argv", "kill_after", "file_limit", "log"}, and answers
with {"code", "seconds"}; a killed command has the code -9."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from importlib import import_module
from pathlib import Path
from typing import Any

_PRELOADED = (
    "gpt2fast.cli.dispatch",
    "gpt2fast.compress.run",
    "gpt2fast.compress.distill.distill",
    "gpt2fast.export.decoder",
    "gpt2fast.export.source",
    "gpt2fast.export.verify",
    "gpt2fast.train.run",
    "accelerate",
    "matplotlib.figure",
    "matplotlib.backends.backend_agg",
    "onnx",
    "onnxruntime",
    "numpy.random",
    "PIL.PngImagePlugin",
    "torch._dynamo",  # the first step of an optimizer imports it
    "tqdm",
)


class CommandServer:
    """The other end of the server. ``temporary`` is the directory of its temporary files."""

    def __init__(self, temporary: Path) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": str(temporary)}
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def run(
        self,
        argv: list[str],
        log: Path,
        kill_after: float | None = None,
        file_limit: int | None = None,
    ) -> tuple[int, float]:
        """Exit code and seconds of one command, whose output goes to ``log``. It is killed after so
        many seconds, and may write files of so many bytes."""
        request = {
            "argv": argv,
            "log": str(log),
            "kill_after": kill_after,
            "file_limit": file_limit,
        }
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        return answer["code"], answer["seconds"]

    def close(self) -> None:
        """End the server."""
        self._process.communicate()


def _child(request: dict[str, Any], output: int) -> None:
    os.dup2(output, 1)
    os.dup2(output, 2)
    if (limit := request["file_limit"]) is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    from gpt2fast.cli import main

    code = 1
    try:
        code = main(request["argv"])
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _copy(reader: int, log: str) -> None:
    with os.fdopen(reader, "rb") as stream:
        Path(log).write_bytes(stream.read())


def _run(request: dict[str, Any]) -> dict[str, Any]:
    begin = time.perf_counter()
    reader, writer = os.pipe()  # a file would be limited as all are
    child = os.fork()
    if child == 0:
        _child(request, writer)
    os.close(writer)
    copying = threading.Thread(target=_copy, args=(reader, request["log"]))
    copying.start()
    if (seconds := request["kill_after"]) is not None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    copying.join()
    return {
        "code": os.waitstatus_to_exitcode(status),
        "seconds": time.perf_counter() - begin,
    }


def _serve() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for name in _PRELOADED:
        import_module(name)
    import_module("gpt2fast.compress.search.measure").LEAST_SECONDS = 0.01
    import_module("gpt2fast.compress.calibration.splits").LEAST_WINDOWS = 2
    for line in sys.stdin:
        answers.write(json.dumps(_run(json.loads(line))) + "\n")
        answers.flush()


if __name__ == "__main__":
    _serve()
