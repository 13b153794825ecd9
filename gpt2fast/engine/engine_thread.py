"""The thread that owns an engine, and the queue that it is fed by. See ``loop``.

The thread ends before the interpreter does: one that came back to it later would be killed there,
and where that is within a library's C++, torch's for example, the process aborts.
"""

from __future__ import annotations

import atexit
import os
import threading
import weakref
from _thread import get_ident, start_new_thread
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

from gpt2fast.engine.engine import Engine
from gpt2fast.engine.messages import Message, OutputQueue, Shutdown, Submission
from gpt2fast.engine.outputs import StepOutput
from gpt2fast.errors import GPT2FastError


class EngineThread:
    """The loop in one process: its queue, its thread, and what that thread alone touches."""

    def __init__(self, make_engine: Callable[[], Engine] | None) -> None:
        self.input_queue: SimpleQueue[Any] = SimpleQueue()
        self.owner: weakref.ref[Any] | None = None  # comes in the queue when it is freed
        self.ident = 0
        self.submissions: dict[int, Submission] = {}  # by the identity of the weak reference
        self.by_request: dict[str, Submission] = {}
        self._make_engine = make_engine
        self._engine: Engine | None = None
        self._running = threading.Lock()
        self._process = os.getpid()
        _THREADS.add(self)

    @property
    def is_closed(self) -> bool:
        """Whether the engine is freed for good."""
        return self._make_engine is None

    @property
    def engine(self) -> Engine:
        """The engine; a new one if there is none. Raises GPT2FastError after ``close``."""
        if self._engine is None:
            if self._make_engine is None:
                raise closed_error()
            self._engine = self._make_engine()
        return self._engine

    def send(self, message: Message) -> None:
        """Put ``message`` into the queue, and start the thread if it does not run. Raises
        GPT2FastError after ``close``."""
        if self.is_closed:
            raise closed_error()
        self.input_queue.put(message)
        self.stop_early()
        # A thread too many ends at once. Where a caller was stopped here, the next one starts it.
        if not self._running.locked():
            start_new_thread(self._run, ())

    def stop_early(self) -> None:
        """Let the engine look at the queue after the step under way."""
        if (engine := self._engine) is not None:
            engine.stop_early()

    def join_at_exit(self) -> None:
        """Close, wait for the step under way, and never run again."""
        if self._process != os.getpid():  # the parent's: it has no thread here
            return
        self.input_queue.put(Shutdown(weakref.ref(OutputQueue())))
        self.stop_early()
        self._running.acquire()
        self.close()

    def _run(self) -> None:
        while not self.input_queue.empty():  # again after the release: a sender may rely on us
            if not self._running.acquire(blocking=False):
                return
            try:
                self.ident = get_ident()
                while not (self.is_closed and self.input_queue.empty()):
                    self._run_once()
            finally:
                self.ident = 0
                self._running.release()

    def _run_once(self) -> None:
        """Take all messages, waiting for one where there is nothing else to do; then one step."""
        try:
            if self._engine is None or not self._engine.has_unfinished():
                self._process_message(self.input_queue.get())
            if self._engine is not None:
                self._engine.runner.stop_flag.clear()  # before: what comes now sets it again
            while not self.input_queue.empty():
                self._process_message(self.input_queue.get())
            if self._engine is not None and self._engine.has_unfinished():
                self._put_outputs(self._engine.step())
        except BaseException as error:  # not a request's: the engine's state may be wrong
            self._engine = None
            self._fail_all(error)

    def _process_message(self, message: Message | weakref.ref[Any]) -> None:
        if message is self.owner:
            self.close()
        elif isinstance(message, weakref.ref):
            self._abort(message)
        else:
            try:
                message.process(self)
            except BaseException as error:
                message.put(error)
                if not isinstance(error, GPT2FastError):
                    raise

    def _abort(self, outputs: weakref.ref[OutputQueue]) -> None:
        submission = self.submissions.pop(id(outputs), None)
        for request in () if submission is None else submission.requests:
            if self.by_request.pop(request.request_id, None) is not None:
                self.engine.abort(request.request_id)

    def _put_outputs(self, step: StepOutput) -> None:
        concerned: dict[int, Submission] = {}
        for delta in step.deltas:
            submission = self.by_request[delta.request_id]
            if submission.streams:
                submission.deltas.append(delta)
                concerned[id(submission.outputs)] = submission
        for output in step.finished:
            submission = self.by_request.pop(output.request_id)
            submission.finished[output.request_id] = output
            if submission.is_complete:
                self.submissions.pop(id(submission.outputs))
                concerned[id(submission.outputs)] = submission
        for submission in concerned.values():
            submission.put_step()

    def close(self) -> None:
        """Free the engine. The thread ends when all callers have been told."""
        self._make_engine = self._engine = None
        self._fail_all(closed_error())

    def _fail_all(self, error: BaseException) -> None:
        submissions, self.submissions, self.by_request = self.submissions, {}, {}
        for submission in submissions.values():
            submission.put(error)


_THREADS: weakref.WeakSet[EngineThread] = weakref.WeakSet()


@atexit.register
def _join_all() -> None:
    for thread in list(_THREADS):
        thread.join_at_exit()


def closed_error() -> GPT2FastError:
    """For calls after ``close``."""
    return GPT2FastError("this LLM is closed; make a new one")
