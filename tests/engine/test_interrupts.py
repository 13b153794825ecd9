"""Interrupts at any moment and forks at any moment leave an ``LLM`` that works."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gpt2fast import LLM, SamplingParams
from gpt2fast.engine.engine import Engine
from gpt2fast.engine.loop import Call
from gpt2fast.engine.messages import Shutdown
from gpt2fast.errors import GPT2FastError
from support.engine.interrupts import Task, llm_tasks, run_process
from support.engine.mock_runner import EOS, byte_tokenizer

SIZES = {"vocab_size": 300, "n_positions": 96, "n_embd": 32, "n_layer": 2, "n_head": 4}
GREEDY = SamplingParams(temperature=0.0, max_tokens=5, ignore_eos=True)
FORKS = pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")


@pytest.fixture(scope="module")
def checkpoint(make_checkpoint: Callable[..., tuple[Path, Any]]) -> Path:
    path, _ = make_checkpoint(std=0.2, eos_token_id=EOS, bos_token_id=EOS, **SIZES)
    byte_tokenizer().save(str(path / "tokenizer.json"))
    return path


@pytest.fixture
def llm(checkpoint: Path) -> Iterator[LLM]:
    with LLM(checkpoint, num_threads=1) as opened:
        yield opened


def assert_whole(llm: LLM, task: Task) -> None:
    task.check()
    stats = llm.stats()
    assert stats["sequences"] == stats["running"] == stats["waiting"] == stats["used"] == 0
    assert not llm.engine_loop.thread.submissions
    assert not llm.engine_loop.thread.by_request


CALLERS = (
    "llm.py",
    "loop.py",
    "engine_thread.py",
    "messages.py",
    "text_stream.py",
)  # whose code runs in a caller's thread


class Interrupt:
    """Raises KeyboardInterrupt before one instruction of what hands a request to the engine."""

    def __init__(self, instruction: int) -> None:
        self.left = instruction

    def __call__(self, frame: Any, event: str, argument: object) -> Any:
        if Path(frame.f_code.co_filename).name not in CALLERS:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            self.left -= 1
            if self.left < 0:
                raise KeyboardInterrupt
        return self


def test_an_interrupt_before_every_instruction(llm: LLM) -> None:
    several = SamplingParams(n=2, seed=5, max_tokens=3, ignore_eos=True)
    tasks = [
        Task(lambda: [o.outputs[0].token_ids for o in llm.generate([[1, 2], [3]], several)]),
        Task(lambda: list(llm.stream([1, 2], GREEDY))),
        Task(lambda: llm.logits([1, 2]).tobytes()),
    ]
    for task in tasks:
        instruction, ended = 0, False
        while not ended:
            sys.settrace(Interrupt(instruction))
            try:
                task.check()
                ended = True
            except KeyboardInterrupt:
                instruction += 1
            finally:
                sys.settrace(None)
            assert_whole(llm, task)
        assert instruction > 50


def test_closing_can_be_interrupted_and_repeated(checkpoint: Path) -> None:
    ended, instruction = False, 0
    while not ended:
        llm = LLM(checkpoint, num_threads=1)
        llm.generate([1, 2], GREEDY)
        sys.settrace(Interrupt(instruction))
        try:
            llm.close()
            ended = True
        except KeyboardInterrupt:
            instruction += 1
        finally:
            sys.settrace(None)
        llm.close()
        with pytest.raises(GPT2FastError, match="closed"):
            llm.generate([1, 2], GREEDY)


@pytest.mark.parametrize("where", ["scheduler.Scheduler.schedule", "engine.time.perf_counter"])
def test_an_error_that_is_no_requests_ends_all_and_harms_no_later_ones(
    llm: LLM, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    (task, *_) = llm_tasks(llm)
    begun = llm.stream([1, 2, 3], GREEDY)

    def fail(*_: object) -> None:
        raise MemoryError("none left")

    with monkeypatch.context() as patch:
        patch.setattr(f"gpt2fast.engine.{where}", fail)
        for use in (task.check, lambda: next(begun)):
            with pytest.raises(MemoryError, match="none left"):
                use()
    assert list(begun) == []
    assert_whole(llm, task)


def test_what_the_engine_itself_calls_cannot_wait_for_it(
    llm: LLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Engine, "stats", lambda engine: llm.generate([1], GREEDY))
        with pytest.raises(GPT2FastError, match="cannot wait"):
            llm.stats()
    assert llm.stats()["sequences"] == 0


def test_interrupts_at_random_moments(checkpoint: Path) -> None:
    run_process(Path("support/engine/interrupts.py"), checkpoint, 500, limit=300)


@pytest.mark.slow
def test_many_interrupts_at_random_moments(checkpoint: Path) -> None:
    print(run_process(Path("support/engine/interrupts.py"), checkpoint, 20_000, limit=3500))


@FORKS
def test_forks_while_other_threads_generate(checkpoint: Path) -> None:
    run_process(Path("support/engine/forked.py"), checkpoint, 5, limit=200)


@FORKS
@pytest.mark.slow
def test_many_forks_while_other_threads_generate(checkpoint: Path) -> None:
    run_process(Path("support/engine/forked.py"), checkpoint, 50, limit=1000)


ENDS = {
    # A thread that comes back to an interpreter that has ended is killed, within torch's C++ too.
    "a stream is open": """
llm = LLM(path, device="torch")
params = SamplingParams(max_tokens=100_000, overflow="slide", ignore_eos=True)
stream = llm.stream([1, 2, 3], params)
next(stream)
""",
    "a finalizer closes": """
class Service:
    def __init__(self):
        self.llm = LLM(path)
        self.llm.generate([1, 2, 3], SamplingParams(max_tokens=2))

    def __del__(self):
        self.llm.close()

service = Service()
""",
    "a finalizer closes what was not used": """
class Service:
    def __init__(self):
        self.llm = LLM(path)

    def __del__(self):
        self.llm.close()

service = Service()
""",
    "a finalizer generates": """
class Service:
    def __init__(self):
        self.llm = LLM(path)

    def __del__(self):
        try:
            self.llm.generate([1, 2, 3])
        except GPT2FastError:
            pass

service = Service()
""",
}


@pytest.mark.parametrize("code", ENDS.values(), ids=ENDS)
def test_the_interpreter_ends(checkpoint: Path, tmp_path: Path, code: str) -> None:
    script = tmp_path / "ends.py"
    head = "from gpt2fast import LLM, SamplingParams\nfrom gpt2fast.errors import GPT2FastError\n"
    script.write_text(f"{head}path = {str(checkpoint)!r}\n{code}")
    for _ in range(3 if "torch" in code else 1):  # by chance, else
        run_process(script, limit=60)


def test_an_interrupted_close_frees_the_engine(llm: LLM) -> None:
    llm.generate([1, 2], GREEDY)
    thread = llm.engine_loop.thread
    Call(llm.engine_loop, Shutdown)  # whose caller has gone
    with pytest.raises(GPT2FastError, match="closed"):
        llm.stats()
    assert thread._engine is None
