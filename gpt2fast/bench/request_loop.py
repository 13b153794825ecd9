"""A process that sends JSON (see process.py), from its own side."""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from typing import IO, Any, NoReturn

from gpt2fast.errors import GPT2FastError, MissingDependencyError


def open_replies() -> IO[str]:
    """Where objects are sent; whatever libraries print goes to standard error from now on."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return replies


def send(replies: IO[str], message: Mapping[str, Any]) -> None:
    """Send one object."""
    replies.write(json.dumps(message) + "\n")
    replies.flush()


def answer_requests(make: Callable[[], Any]) -> NoReturn:
    """Answer each request by the method of its name of what ``make`` gives, until the input ends,
    so that the process does not outlive who started it, or "close" was asked for."""
    replies = open_replies()
    worker: Any = None
    for line in sys.stdin:
        request = json.loads(line)
        do = request.pop("do")
        try:
            if worker is None:
                worker = make()
            reply = {"ok": getattr(worker, do)(**request)}
        except Exception as error:
            reply = {"error": describe(error)}
        send(replies, reply)
        if do == "close":
            break
    # Libraries with threads of their own sometimes crash or hang while they are torn down.
    sys.stderr.flush()
    os._exit(0)


def describe(error: BaseException) -> dict[str, str]:
    """Kind and one line; the traceback of what is not a user's mistake goes to standard error."""
    text = " ".join(str(error).split())
    if isinstance(error, MissingDependencyError):
        return {"kind": "missing", "reason": text}
    if isinstance(error, GPT2FastError):
        return {"kind": "unsupported", "reason": text}
    traceback.print_exc()
    return {"kind": "failed", "reason": f"{type(error).__name__}: {text}"[:500]}
