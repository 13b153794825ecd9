"""What callers ask of the engine's thread, and how it answers."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from gpt2fast.engine.engine import Engine
from gpt2fast.engine.outputs import Delta, RequestOutput, StepOutput
from gpt2fast.engine.sequence import Request

if TYPE_CHECKING:
    from gpt2fast.engine.engine_thread import EngineThread

OutputQueue = SimpleQueue[Any]  # outputs, or an exception


class Message:
    """What a caller asks of the loop. ``outputs()`` is None once the caller has gone."""

    def __init__(self, outputs: weakref.ref[OutputQueue]) -> None:
        self.outputs = outputs

    def process(self, thread: EngineThread) -> None:
        """Do it; called in the loop's thread."""
        raise NotImplementedError

    def put(self, output: Any) -> None:
        """Hand ``output`` to the caller, if there still is one."""
        if (queue := self.outputs()) is not None:
            queue.put(output)


class Submission(Message):
    """Requests that one caller waits for."""

    def __init__(
        self, outputs: weakref.ref[OutputQueue], requests: list[Request], streams: bool
    ) -> None:
        super().__init__(outputs)
        self.requests, self.streams = requests, streams
        self.deltas: list[Delta] = []  # of this step
        self.finished: dict[str, RequestOutput] = {}

    @property
    def is_complete(self) -> bool:
        """Whether all requests have ended."""
        return len(self.finished) == len(self.requests)

    def process(self, thread: EngineThread) -> None:
        """Queue the requests in the engine."""
        if self.outputs() is None:
            return
        for request in self.requests:
            thread.engine.enqueue(request)
            thread.by_request[request.request_id] = self
        thread.submissions[id(self.outputs)] = self

    def put_step(self) -> None:
        """Put what the last step brought, if the caller waits for it."""
        finished = [self.finished[r.request_id] for r in self.requests] if self.is_complete else []
        if finished or (self.streams and self.deltas):
            self.put(StepOutput(self.deltas, finished, []))
        self.deltas = []


class FunctionCall(Message):
    """A function of the engine."""

    def __init__(
        self, outputs: weakref.ref[OutputQueue], function: Callable[[Engine], Any]
    ) -> None:
        super().__init__(outputs)
        self._function = function

    def process(self, thread: EngineThread) -> None:
        """Call it."""
        if self.outputs() is None:
            return
        try:
            self.put(self._function(thread.engine))
        except Exception as error:
            self.put(error)


class Shutdown(Message):
    """The end of the engine, also where an interrupt came to the caller meanwhile."""

    def process(self, thread: EngineThread) -> None:
        """Free the engine."""
        thread.close()
        self.put(None)
