"""The thread that owns an engine and steps it. Requests come through a queue, outputs leave once a
step for all requests together.

An exception from outside, Ctrl-C first of all, may come between any two instructions of the thread
that it is for. Nothing that takes several instructions is safe there: neither a step, nor giving
blocks back, nor a lock with the ``try`` that releases it. So callers do nothing of the kind. They
put a request into a queue, which is one call of C, and wait. Signals are delivered to the main
thread alone, which this one is not.

What a caller holds of its requests is the queue that their outputs come in. Where it goes, however
the caller ended, a weak reference to it puts itself into the loop's queue, again without an
instruction of Python, and the loop aborts the requests.
"""

from __future__ import annotations

import threading
import weakref
from _thread import get_ident, start_new_thread
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any, Generic, TypeVar, cast

from gpt2fast.engine.engine import Engine
from gpt2fast.engine.forks import renew_in_children
from gpt2fast.engine.outputs import Delta, RequestOutput, StepOutput
from gpt2fast.engine.sequence import Request
from gpt2fast.errors import GPT2FastError

T = TypeVar("T")
Answers = SimpleQueue[Any]  # what was asked for, or an exception

# Seconds between two looks of a waiting thread: for an exception that another thread has raised in
# it, which does not end the waiting, and for the end of the process that the loop was in.
_LOOK = 0.05


class EngineLoop:
    """An engine for callers in any threads. ``make_engine`` is called in the loop's thread, and
    again where the books of the last engine may be wrong: behind an error that was not a request's,
    and in a forked child."""

    def __init__(self, make_engine: Callable[[], Engine]) -> None:
        self._make_engine: Callable[[], Engine] | None = make_engine
        self.renew()
        renew_in_children(self)

    def renew(self) -> None:
        """Leave the thread, which a forked child does not have, and what it worked on."""
        self.session = _Session(self._make_engine)
        self.session.owner = weakref.ref(self, self.session.inbox.put)

    @property
    def is_closed(self) -> bool:
        """Whether ``close`` was called."""
        return self._make_engine is None

    def submit(self, requests: list[Request], *, streams: bool = False) -> Call[StepOutput]:
        """Queue checked requests. The call is answered once, when all have ended, with their
        outputs in order; or, if it ``streams``, after each step that has something for it."""
        return Call(self, lambda answers: _Order(answers, requests, streams))

    def run(self, work: Callable[[Engine], T]) -> T:
        """What ``work`` returns, or raises, between two steps."""
        return Call[T](self, lambda answers: _Work(answers, work)).take()

    def close(self) -> None:
        """Free the engine. Calls under way end with an error. Does nothing the second time."""
        self._make_engine = None
        call = Call[None](self, _Closing)
        if get_ident() != self.session.thread:  # else a finalizer is running there: it cannot wait
            call.take(until_closed=False)


class Call(Generic[T]):
    """Something asked of the loop. Dropping it, or ``cancel``, abandons what is left of it."""

    def __init__(self, loop: EngineLoop, ask: Callable[[weakref.ref[Answers]], Any]) -> None:
        self._loop = loop  # which lives as long as anybody waits
        self._session = loop.session
        self._answers: Answers = SimpleQueue()
        self._reference = weakref.ref(self._answers, self._session.inbox.put)
        self._session.send(ask(self._reference))

    def take(self, *, until_closed: bool = True) -> T:
        """The next answer. Raises what the loop did, and GPT2FastError where no answer can come."""
        if get_ident() == self._session.thread:
            raise GPT2FastError("code that runs within a step of this LLM cannot wait for another")
        while True:
            if self._loop.session is not self._session:
                raise GPT2FastError("this was begun before the process was forked; begin it again")
            if until_closed and self._loop.is_closed:
                raise _closed()
            try:
                answer = self._answers.get(timeout=_LOOK)
            except Empty:
                continue
            if isinstance(answer, BaseException):
                raise answer
            return cast(T, answer)

    def cancel(self) -> None:
        """Abort what has not ended; may be called at any time, in any thread."""
        self._session.inbox.put(self._reference)


class _Order:
    """Requests that one caller waits for, as the loop sees them."""

    def __init__(
        self, answers: weakref.ref[Answers], requests: list[Request], streams: bool
    ) -> None:
        self.answers, self.requests, self.streams = answers, requests, streams
        self.deltas: list[Delta] = []  # of this step
        self.outputs: dict[str, RequestOutput] = {}

    @property
    def is_complete(self) -> bool:
        return len(self.outputs) == len(self.requests)

    def handle(self, session: _Session) -> None:
        for request in self.requests:
            session.engine.enqueue(request)
            session.orders[request.request_id] = self
        session.open[id(self.answers)] = self

    def send_news(self) -> None:
        """Send what the last step brought, if the caller waits for it."""
        outputs = [self.outputs[r.request_id] for r in self.requests] if self.is_complete else []
        if outputs or (self.streams and self.deltas):
            _answer(self.answers, StepOutput(self.deltas, outputs))
        self.deltas = []


class _Work:
    """A function of the engine."""

    def __init__(self, answers: weakref.ref[Answers], work: Callable[[Engine], Any]) -> None:
        self.answers, self._work = answers, work

    def handle(self, session: _Session) -> None:
        try:
            _answer(self.answers, self._work(session.engine))
        except Exception as error:
            _answer(self.answers, error)


class _Closing:
    """The end of the engine."""

    def __init__(self, answers: weakref.ref[Answers]) -> None:
        self.answers = answers

    def handle(self, session: _Session) -> None:
        session.close()
        _answer(self.answers, None)


class _Session:
    """The loop in one process: its queue, its thread, and what that thread alone touches."""

    def __init__(self, make_engine: Callable[[], Engine] | None) -> None:
        self.inbox: SimpleQueue[Any] = SimpleQueue()
        self.owner: weakref.ref[EngineLoop] | None = None  # comes in the inbox when it has gone
        self.thread = 0
        self.open: dict[int, _Order] = {}  # by the identity of the caller's weak reference
        self.orders: dict[str, _Order] = {}  # by request
        self._make_engine = make_engine
        self._engine: Engine | None = None
        self._serving = threading.Lock()

    @property
    def engine(self) -> Engine:
        """The engine; a new one if there is none. Raises GPT2FastError behind ``close``."""
        if self._engine is None:
            if self._make_engine is None:
                raise _closed()
            self._engine = self._make_engine()
        return self._engine

    def send(self, message: Any) -> None:
        """Hand over ``message``, and see to it that somebody reads it."""
        self.inbox.put(message)
        # A thread too many ends at once. Where a caller was stopped here, the next one starts it.
        if not self._serving.locked():
            start_new_thread(self._serve, ())

    def _serve(self) -> None:
        while not self.inbox.empty():  # again behind the release: somebody may have relied on us
            if not self._serving.acquire(blocking=False):
                return
            try:
                self.thread = get_ident()
                self._run()
            finally:
                self.thread = 0
                self._serving.release()

    def _run(self) -> None:
        while self._make_engine is not None or not self.inbox.empty():
            self._turn()

    def _turn(self) -> None:
        try:
            if self._engine is None or not self._engine.has_unfinished():
                self._receive(self.inbox.get())
            while not self.inbox.empty():
                self._receive(self.inbox.get())
            if self._engine is not None and self._engine.has_unfinished():
                self._deliver(self._engine.step())
        except BaseException as error:  # not for one request's sake: the books may be wrong
            self._engine = None
            self._fail_all(error)

    def _receive(self, message: Any) -> None:
        if message is self.owner:
            self.close()
        elif isinstance(message, weakref.ref):
            self._abandon(message)
        elif message.answers() is not None:  # else the caller has gone already
            try:
                message.handle(self)
            except BaseException as error:
                _answer(message.answers, error)
                if not isinstance(error, GPT2FastError):
                    raise

    def _abandon(self, answers: weakref.ref[Answers]) -> None:
        order = self.open.pop(id(answers), None)
        for request in () if order is None else order.requests:
            if self.orders.pop(request.request_id, None) is not None:
                self.engine.abort(request.request_id)

    def _deliver(self, result: StepOutput) -> None:
        news: dict[int, _Order] = {}
        for delta in result.deltas:
            order = self.orders[delta.request_id]
            if order.streams:
                order.deltas.append(delta)
                news[id(order.answers)] = order
        for output in result.finished:
            order = self.orders.pop(output.request_id)
            order.outputs[output.request_id] = output
            if order.is_complete:
                news[id(order.answers)] = self.open.pop(id(order.answers))
        for order in news.values():
            order.send_news()

    def close(self) -> None:
        """Let go of the engine. The thread ends when all have been told."""
        self._make_engine = self._engine = None
        self._fail_all(_closed())

    def _fail_all(self, error: BaseException) -> None:
        orders, self.open, self.orders = self.open, {}, {}
        for order in orders.values():
            _answer(order.answers, error)


def _answer(reference: weakref.ref[Answers], answer: Any) -> None:
    if (answers := reference()) is not None:
        answers.put(answer)


def _closed() -> GPT2FastError:
    return GPT2FastError("this LLM is closed; make a new one")
