"""The engine for callers in any threads: a thread of its own steps it (``engine_thread``). Requests
come through a queue, outputs leave once a step for all requests together.

An exception from outside, Ctrl-C first of all, may come between any two instructions of the thread
that it is for. Nothing that takes several instructions is safe there: neither a step, nor giving
blocks back, nor a lock with the ``try`` that releases it. So callers do nothing of the kind. They
put a request into a queue, which is one call of C, and wait. Signals are delivered to the main
thread alone, which this one is not.

What a caller holds of its requests is the queue that their outputs come in. When that is freed,
however the caller ended, a weak reference to it puts itself into the loop's queue, again without an
instruction of Python, and the loop aborts the requests.
"""

from __future__ import annotations

import weakref
from _thread import get_ident
from collections.abc import Callable
from queue import Empty
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from gpt2fast.engine.engine import Engine
from gpt2fast.engine.engine_thread import EngineThread, closed_error
from gpt2fast.engine.forks import reinit_after_fork
from gpt2fast.engine.messages import FunctionCall, Message, OutputQueue, Shutdown, Submission
from gpt2fast.engine.outputs import StepOutput
from gpt2fast.engine.sequence import Request
from gpt2fast.errors import GPT2FastError

if TYPE_CHECKING:
    from gpt2fast.engine.async_queue import AsyncOutputQueue

T = TypeVar("T")
# Seconds after which a waiting thread looks up: for an exception that another thread has raised in
# it, which does not end the waiting, for the engine's end, and for a fork.
_POLL_INTERVAL = 0.05


class EngineLoop:
    """An engine for callers in any threads. ``make_engine`` is called in the loop's thread, and
    again where the state of the last engine may be wrong: after an error that was not a request's,
    and in a forked child."""

    def __init__(self, make_engine: Callable[[], Engine]) -> None:
        self._make_engine: Callable[[], Engine] | None = make_engine
        self.reinit()
        reinit_after_fork(self)

    def reinit(self) -> None:
        """Leave the thread, which a forked child does not have, and what it worked on."""
        self.thread = EngineThread(self._make_engine)
        self.thread.owner = weakref.ref(self, self.thread.input_queue.put)

    @property
    def is_closed(self) -> bool:
        """Whether ``close`` was called."""
        return self._make_engine is None

    def submit(
        self,
        requests: list[Request],
        *,
        streams: bool = False,
        queue: OutputQueue | AsyncOutputQueue | None = None,
    ) -> Call[StepOutput]:
        """Queue checked requests. The call has one output, when all have ended, with their outputs
        in order; or, if it ``streams``, one after each step that has something for it. They come in
        ``queue``, by default one that a thread waits for."""
        return Call(self, lambda outputs: Submission(outputs, requests, streams), queue)

    def run(self, function: Callable[[Engine], T]) -> T:
        """What ``function`` returns, or raises, between two steps."""
        return Call[T](self, lambda outputs: FunctionCall(outputs, function)).get()

    def close(self) -> None:
        """Free the engine. Calls under way end with an error. Does nothing the second time."""
        self._make_engine = None
        if self.thread.is_closed:
            return
        call = Call[None](self, Shutdown)
        if get_ident() != self.thread.ident:  # else a finalizer is running there: it cannot wait
            call.get(until_closed=False)


class Call(Generic[T]):
    """A caller's handle of what the loop was asked for. Dropping it, or ``cancel``, aborts what is
    left of that."""

    def __init__(
        self,
        loop: EngineLoop,
        message: Callable[[weakref.ref[Any]], Message],
        queue: OutputQueue | AsyncOutputQueue | None = None,
    ) -> None:
        self._loop = loop  # which lives as long as anybody waits
        self._thread = loop.thread
        self._outputs: Any = OutputQueue() if queue is None else queue
        self._reference = weakref.ref(self._outputs, self._thread.input_queue.put)
        self._thread.send(message(self._reference))

    def get(self, *, until_closed: bool = True) -> T:
        """The next output. Raises what the loop did, and GPT2FastError where none can come."""
        if get_ident() == self._thread.ident:
            raise GPT2FastError("code that runs within a step of this LLM cannot wait for another")
        while True:
            if self._loop.thread is not self._thread:
                raise GPT2FastError("this was begun before the process was forked; begin it again")
            if until_closed and self._loop.is_closed:
                raise closed_error()
            try:
                output = self._outputs.get(timeout=_POLL_INTERVAL)
            except Empty:
                continue
            if isinstance(output, BaseException):
                raise output
            return cast(T, output)

    async def get_async(self) -> T:
        """The same in an event loop, of a call whose queue is an ``AsyncOutputQueue``."""
        output = await self._outputs.get()
        if isinstance(output, BaseException):
            raise output
        return cast(T, output)

    def cancel(self) -> None:
        """Abort what has not ended; nothing more can be got then."""
        self._thread.input_queue.put(self._reference)
        self._thread.stop_early()
