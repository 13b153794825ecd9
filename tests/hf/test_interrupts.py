"""Interrupts at any moment and forks at any moment leave an accelerated model that works."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from support.engine.interrupts import run_process

torch = pytest.importorskip("torch")

from gpt2fast.hf.weights.fingerprint import WeightFingerprint  # noqa: E402
from support.hf_pair import pair, texts  # noqa: E402

FORKS = pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")


def test_an_interrupted_look_at_trained_weights_is_repeated(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = pair()[0]
    with torch.no_grad():
        model(texts())
    first = model.transformer._gpt2fast_backend
    with pytest.warns(UserWarning, match="gradients"):
        model(texts())

    def interrupt(_: WeightFingerprint) -> bool:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, torch.no_grad():
        patch.setattr(WeightFingerprint, "checksums_match", interrupt)
        with pytest.raises(KeyboardInterrupt):
            model(texts())
    with monkeypatch.context() as patch, torch.no_grad():
        patch.setattr(WeightFingerprint, "checksums_match", lambda fingerprint: False)
        model(texts())
        second = model.transformer._gpt2fast_backend
        model(texts())
    assert model.transformer._gpt2fast_backend is second is not first


def test_interrupts_at_random_moments() -> None:
    run_process(Path("support/hf/interrupts.py"), 100, limit=400)


@pytest.mark.slow
def test_many_interrupts_at_random_moments() -> None:
    print(run_process(Path("support/hf/interrupts.py"), 20_000, limit=3500))


@FORKS
def test_forks_while_other_threads_generate() -> None:
    run_process(Path("support/hf/forked.py"), 5, limit=400)


@FORKS
@pytest.mark.slow
def test_many_forks_while_other_threads_generate() -> None:
    run_process(Path("support/hf/forked.py"), 50, limit=3500)
