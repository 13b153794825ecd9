"""A process in which calls are interrupted at random moments: ``interrupts.py CHECKPOINT COUNT``.

It ends with the number of interrupts that came; with an error where anything but KeyboardInterrupt
came, a result is wrong or something is left held; and with a traceback of all threads where a call
hangs. ``support/hf/interrupts.py`` does the same to ``gpt2fast.hf``.
"""

from __future__ import annotations

import ctypes
import faulthandler
import os
import random
import signal
import subprocess
import sys
import threading
import time
from _thread import interrupt_main
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from gpt2fast import LLM, BeamSearchParams, SamplingParams

LIMIT = 120  # seconds without an interrupt, after which the process hangs
Work = Callable[[], Any]


def run_process(script: Path, *arguments: object, limit: float) -> str:
    """What a script beside the tests prints; it fails where that does, or takes ``limit``
    seconds."""
    tests = Path(__file__).resolve().parents[2]
    command = [sys.executable, str(tests / script), *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tests.parent), str(tests)])}
    done = subprocess.run(command, capture_output=True, text=True, timeout=limit, env=environment)
    assert done.returncode == 0, (done.returncode, done.stdout, done.stderr)
    return done.stdout


class Task:
    """A call, what it returns when it is left alone, and about how long it takes."""

    def __init__(self, work: Work) -> None:
        self.work = work
        self.want = work()
        start = time.perf_counter()
        self.check()
        self.seconds = time.perf_counter() - start

    def check(self) -> None:
        """Run it, and hold the result against the one that is known."""
        found = self.work()
        assert found == self.want, (found, self.want)

    def delay(self, rng: random.Random) -> float:
        """A moment of the call, its beginning, where most is done in Python, more often."""
        longest = rng.choice([self.seconds * 1.2, self.seconds * 0.2, 200e-6])
        return rng.uniform(1e-6, longest)


def by_signal(task: Task, rng: random.Random) -> bool:
    """Run ``task`` with SIGALRM on its way; whether it came in time."""
    try:
        try:
            signal.setitimer(signal.ITIMER_REAL, task.delay(rng))
            task.check()
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    except KeyboardInterrupt:
        return True
    return False


def by_thread(task: Task, rng: random.Random) -> bool:
    """The same with ``interrupt_main`` of another thread, which wakes nobody who waits."""
    delay, done = task.delay(rng), threading.Event()

    def interrupt() -> None:
        if not done.wait(delay):
            interrupt_main()

    try:
        thread = threading.Thread(target=interrupt)
        thread.start()
        try:
            task.check()
        finally:
            done.set()
            thread.join()
    except KeyboardInterrupt:
        thread.join()  # it has interrupted, and does not do so again
        return True
    return False


def by_exception(task: Task, rng: random.Random) -> bool:
    """The same in a thread that is not the main one, by the interpreter's own call for it."""
    outcome: list[Any] = []

    def victim() -> None:
        try:
            task.check()
            outcome.append(False)
        except KeyboardInterrupt:
            outcome.append(True)
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(target=victim)
    thread.start()
    time.sleep(task.delay(rng))
    raised = ctypes.py_object(KeyboardInterrupt)
    if not outcome and thread.ident is not None:
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), raised)
    thread.join()
    if outcome and isinstance(outcome[0], BaseException):
        raise outcome[0]
    return not outcome or bool(outcome[0])  # it may come outside of the try as well


class Beside:
    """Threads that nobody interrupts, whose results must be right."""

    def __init__(self, tasks: Sequence[Task], count: int = 2) -> None:
        self._stop, self.errors, self.done = threading.Event(), [], 0
        self._threads = [threading.Thread(target=self._work, args=(tasks,)) for _ in range(count)]
        for thread in self._threads:
            thread.start()

    def _work(self, tasks: Sequence[Task]) -> None:
        try:
            while not self._stop.is_set():
                for task in tasks:
                    task.check()
                    self.done += 1
                    time.sleep(0.002)
        except BaseException as error:
            self.errors.append(error)

    def join(self) -> None:
        """Let them end, and raise what they found."""
        self._stop.set()
        for thread in self._threads:
            thread.join()
        if self.errors:
            raise self.errors[0]


def interrupt_all(
    tasks: Sequence[Task], idle: Callable[[], None], count: int, *, seed: int = 0
) -> dict[str, int]:
    """Interrupt ``tasks`` ``count`` times, in turns with threads beside and alone. ``idle`` raises
    where something is left when nobody runs."""
    # Without a handler that raises, SIGALRM ends the process.
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    lost: list[Any] = []
    sys.unraisablehook = lost.append
    # A thread of a call that was interrupted as it began has nobody to tell.
    threading.excepthook = lambda args: (
        None if issubclass(args.exc_type, KeyboardInterrupt) else lost.append(args)
    )
    rng = random.Random(seed)
    ways = [by_signal, by_signal, by_signal, by_thread, by_exception]
    came = dict.fromkeys((way.__name__ for way in ways), 0)
    tries = 0
    while sum(came.values()) < count:
        faulthandler.dump_traceback_later(LIMIT, exit=True)
        beside = Beside(tasks) if rng.random() < 0.5 else None
        try:
            for _ in range(min(100, count - sum(came.values()))):
                way, task = rng.choice(ways), rng.choice(tasks)
                came[way.__name__] += way(task, rng)
                rng.choice(tasks).check()
                tries += 1
        finally:
            if beside is not None:
                beside.join()
        idle()
        assert not lost, lost
        print(came, file=sys.stderr, flush=True)
    faulthandler.cancel_dump_traceback_later()
    return {"tries": tries, **came}


def llm_tasks(llm: LLM) -> list[Task]:
    """Calls of all kinds, a few milliseconds each."""
    prompt, long = [1, 2, 3], [n % 200 for n in range(40)]
    greedy = SamplingParams(temperature=0.0, max_tokens=12, ignore_eos=True)
    several = SamplingParams(n=3, seed=5, max_tokens=8, ignore_eos=True)

    def tokens(outputs: Any) -> Any:
        return [[each.token_ids for each in output.outputs] for output in outputs]

    def stream() -> Any:
        stream = llm.stream(prompt, greedy)
        pieces = list(stream)
        assert stream.output is not None
        return pieces, tokens([stream.output])

    return [
        Task(lambda: tokens(llm.generate([prompt, long], greedy))),
        Task(lambda: tokens(llm.generate([long, prompt], several))),
        Task(lambda: tokens(llm.beam_search(prompt, BeamSearchParams(beam_width=3, max_tokens=6)))),
        Task(stream),
        Task(lambda: llm.logits(long).tobytes()),
    ]


def main(path: Path, count: int) -> None:
    # A cache that few requests fill: sequences are preempted and blocks evicted.
    with LLM(path, num_threads=1, kv_cache_tokens=160, max_batch_tokens=32) as llm:

        def idle() -> None:
            stats = llm.stats()
            held = {name: stats[name] for name in ("sequences", "running", "waiting", "used")}
            assert not any(held.values()), held
            assert stats["cached"] + stats["free"] == stats["num_blocks"]
            thread = llm.engine_loop.thread
            assert not thread.submissions
            assert not thread.by_request

        print(interrupt_all(llm_tasks(llm), idle, count, seed=os.getpid()))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
