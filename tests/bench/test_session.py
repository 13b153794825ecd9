"""A worker that fails, dies, hangs or prints does no harm."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gpt2fast.bench.process import WorkerError
from gpt2fast.bench.session import Session

DEMO = Path(__file__).resolve().parents[2] / "gpt2fast" / "assets" / "demo"


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    made = Session("gpt2fast", tmp_path, threads=1, timeout=60)
    yield made
    made.kill()


def load(session: Session) -> dict[str, object]:
    return session.ask(
        "load", artifact=str(DEMO), format="float32", threads=1, context=40, batch=1, options={}
    )


def test_a_whole_life(session: Session) -> None:
    loaded = load(session)
    # All parameters but the position table, whose rows are read one at a time, in float32.
    assert 15e6 < loaded["weight_bytes"] < 16e6  # type: ignore[operator]
    assert loaded["kv_bytes_per_token"] == 2 * 4 * 256 * 4
    answer = session.ask("generate", prompts=[[5, 6, 7]], new_tokens=8)
    assert len(answer["tokens"][0]) == len(answer["times"]) == 8
    assert answer["times"] == sorted(answer["times"])
    assert answer["times"][0] > 0
    assert answer["peak_memory"] > 15e6
    again = session.ask("generate", prompts=[[5, 6, 7]], new_tokens=8)
    assert again["tokens"] == answer["tokens"]
    assert session.ask("ties", prompt=[5, 6, 7], tokens=answer["tokens"][0])["ties"] == [False] * 8
    assert session.ask("nats", tokens=[5, 6, 7, 8], counted=3)["nats"] > 0
    assert session.settle()
    session.close()


def test_an_error_is_an_answer_and_the_worker_goes_on(session: Session) -> None:
    with pytest.raises(WorkerError) as caught:
        session.ask(
            "load", artifact="/none", format="float32", threads=1, context=8, batch=1, options={}
        )
    assert caught.value.kind == "unsupported"
    assert "/none" in caught.value.reason
    load(session)


def test_death_is_told_with_its_signal(session: Session) -> None:
    load(session)
    os.kill(session._process.pid, signal.SIGKILL)
    with pytest.raises(WorkerError) as caught:
        session.ask("generate", prompts=[[5]], new_tokens=4)
    assert caught.value.kind == "died"
    assert "SIGKILL" in caught.value.reason


def test_last_words_are_reported(tmp_path: Path) -> None:
    session = Session("no-such-system", tmp_path, threads=1, timeout=60)
    try:
        with pytest.raises(WorkerError, match="no-such-system"):
            session.ask("versions")
        session._process.stdin.write(b"this is no request\n")  # type: ignore[union-attr]
        with pytest.raises(WorkerError) as caught:
            session.ask("versions")
        assert caught.value.kind == "died"
        assert "JSONDecodeError" in caught.value.reason
    finally:
        session.kill()


def test_a_request_that_takes_too_long(tmp_path: Path) -> None:
    session = Session("gpt2fast", tmp_path, threads=1, timeout=0.001)
    begin = time.perf_counter()
    try:
        with pytest.raises(WorkerError, match=r"versions took more than 0\.001 s"):
            session.ask("versions")
    finally:
        session.kill()
    assert time.perf_counter() - begin < 30


def test_a_worker_that_does_not_end_is_killed(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gpt2fast.bench import session as module

    monkeypatch.setattr(module, "_CLOSING_SECONDS", 0.2)
    load(session)
    os.kill(session._process.pid, signal.SIGSTOP)
    session.close()
    assert session._process.returncode == -signal.SIGKILL


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_an_idle_worker_burns_no_cpu(session: Session) -> None:
    load(session)
    session.ask("generate", prompts=[[5]], new_tokens=16)
    assert session.settle()
    before = session._cpu_seconds()
    time.sleep(0.5)
    after = session._cpu_seconds()
    assert before is not None
    assert after is not None
    assert after - before <= 0.05


def test_a_worker_ends_with_its_input(session: Session) -> None:
    load(session)
    assert session._process.stdin is not None
    session._process.stdin.close()
    assert session._process.wait(timeout=30) == 0
