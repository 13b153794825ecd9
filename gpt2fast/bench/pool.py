"""Workers that hold their models while they take turns, as many as memory allows."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from gpt2fast.bench.grid import Case, Variant
from gpt2fast.bench.session import Session

# Of memory that a loaded model may take, a parameter; generous, for systems that keep two copies.
_BYTES_PER_PARAMETER = {"float32": 6.0}
_FEWER_BYTES = 3.0  # in any other format

# A system that starts as slowly as this (compilation, say) is started once.
_SLOW_START_SECONDS = 10.0


@dataclass(frozen=True)
class WorkerKey:
    """What a worker is loaded for: caches are sized by batch and context."""

    variant: Variant
    threads: int
    batch: int

    @property
    def memory(self) -> float:
        """Bytes to expect."""
        config = self.variant.model.config
        heads = sum(layer.n_head for layer in config.layer_shapes)
        cache = 8.0 * heads * config.head_size * config.n_positions * self.batch
        per_parameter = _BYTES_PER_PARAMETER.get(self.variant.format, _FEWER_BYTES)
        return per_parameter * config.num_parameters + cache


@dataclass
class Starts:
    """Of the workers of one key, a value for each start."""

    load_seconds: list[float] = field(default_factory=list)
    cold_seconds: list[float] = field(default_factory=list)
    load_peak: int = 0
    weight_bytes: int | None = None
    kv_bytes_per_token: int | None = None


@dataclass
class _Open:
    session: Session
    warm: set[Case] = field(default_factory=set)


class Pool:
    """Started workers; the one used longest ago is closed when memory runs short."""

    def __init__(
        self,
        cases: Iterable[Case],
        artifacts: dict[Variant, Path],
        work: Path,
        timeout: float,
        starts: int,
        budget: float,
    ) -> None:
        self._cases: dict[WorkerKey, list[Case]] = {}
        for case in cases:
            self._cases.setdefault(worker_key(case), []).append(case)
        self._artifacts = artifacts
        self._work = work
        self._timeout = timeout
        self._wanted_starts = starts
        self._budget = budget
        self._open: OrderedDict[WorkerKey, _Open] = OrderedDict()
        self.starts: dict[WorkerKey, Starts] = {}

    def is_ready(self, case: Case) -> bool:
        """Whether ``acquire`` will return at once."""
        opened = self._open.get(worker_key(case))
        return opened is not None and case in opened.warm

    def acquire(self, case: Case) -> Session:
        """A worker that has loaded and run ``case`` before. Raises ``WorkerError``."""
        key = worker_key(case)
        if key not in self._open:
            self._make_room(key.memory)
            self._open[key] = _Open(self._start(key))
        self._open.move_to_end(key)
        opened = self._open[key]
        if case not in opened.warm:
            opened.session.ask("generate", prompts=prompts(case), new_tokens=case.new_tokens)
            opened.warm.add(case)
        return opened.session

    def drop(self, case: Case) -> None:
        """End the worker of ``case``, which has failed."""
        opened = self._open.pop(worker_key(case), None)
        if opened:
            opened.session.kill()

    def close(self) -> None:
        """End all workers."""
        while self._open:
            self._open.popitem()[1].session.kill()

    def _make_room(self, needed: float) -> None:
        while self._open and needed + sum(h.memory for h in self._open) > self._budget:
            self._open.popitem(last=False)[1].session.close()

    def _start(self, key: WorkerKey) -> Session:
        """A new worker; the first time, as many starts as are wanted for a median."""
        wanted = 1 if key in self.starts else self._wanted_starts
        session = self._start_once(key)
        seconds = self.starts[key].cold_seconds
        while len(seconds) < wanted and seconds[0] <= _SLOW_START_SECONDS:
            session.close()
            session = self._start_once(key)
        return session

    def _start_once(self, key: WorkerKey) -> Session:
        """A new worker that has made a first token, with the times that took."""
        cases = self._cases[key]
        shortest = min(cases, key=lambda case: case.prompt_tokens)
        session = Session(key.variant.system, self._work, key.threads, self._timeout)
        try:
            loaded = session.ask("load", **load_request(key, cases, self._artifacts))
            session.ask("generate", prompts=prompts(shortest), new_tokens=1)
        except BaseException:
            session.kill()
            raise
        starts = self.starts.setdefault(key, Starts())
        starts.cold_seconds.append(time.perf_counter() - session.started)
        starts.load_seconds.append(loaded["seconds"])
        starts.load_peak = max(starts.load_peak, loaded["peak_memory"])
        starts.weight_bytes = loaded["weight_bytes"]
        starts.kv_bytes_per_token = loaded["kv_bytes_per_token"]
        return session


def worker_key(case: Case) -> WorkerKey:
    """The worker that runs ``case``."""
    return WorkerKey(case.variant, case.threads, case.batch)


def load_request(
    key: WorkerKey, cases: Iterable[Case], artifacts: dict[Variant, Path]
) -> dict[str, Any]:
    """The fields of a load request with room for all of ``cases``."""
    variant = key.variant
    return {
        "artifact": str(artifacts[variant]),
        "format": variant.format,
        "threads": key.threads,
        "context": max(case.prompt_tokens + case.new_tokens for case in cases),
        "batch": key.batch,
        "options": options_of(variant),
    }


def options_of(variant: Variant) -> dict[str, str]:
    """What departs from a system's defaults."""
    return {"kv_cache_dtype": variant.kv_cache_dtype} if variant.kv_cache_dtype else {}


def prompts(case: Case) -> list[list[int]]:
    """Random token ids (batch, prompt), the same for every system."""
    vocabulary = case.variant.model.config.vocab_size
    return random_prompts(vocabulary, case.batch, case.prompt_tokens)


def random_prompts(
    vocabulary: int, batch: int, length: int, seed: int | Sequence[int] = 0
) -> list[list[int]]:
    """(batch, length) token ids that depend on nothing but these arguments."""
    rows = np.random.default_rng(seed).integers(0, vocabulary, (batch, length))
    return [[int(token) for token in row] for row in rows]
