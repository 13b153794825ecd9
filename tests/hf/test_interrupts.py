"""Interrupts at any moment and forks at any moment leave an accelerated model that works."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from engine.interrupts import run_process

FORKS = pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")


def test_interrupts_at_random_moments() -> None:
    run_process(Path("hf/interrupts.py"), 200, limit=400)


@pytest.mark.slow
def test_many_interrupts_at_random_moments() -> None:
    print(run_process(Path("hf/interrupts.py"), 20_000, limit=3500))


@FORKS
def test_forks_while_other_threads_generate() -> None:
    run_process(Path("hf/forked.py"), 5, limit=400)


@FORKS
@pytest.mark.slow
def test_many_forks_while_other_threads_generate() -> None:
    run_process(Path("hf/forked.py"), 50, limit=3500)
