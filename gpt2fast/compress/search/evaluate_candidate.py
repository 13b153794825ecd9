"""Trying a recipe out: carry it out, save the result as users will load it, measure that."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpt2fast.compress.budget import Budget, Measured
from gpt2fast.compress.calibration.splits import Texts
from gpt2fast.compress.progress import ProgressCallback
from gpt2fast.compress.recipe.pipeline import Pipeline
from gpt2fast.compress.recipe.recipe import Recipe
from gpt2fast.compress.search.measure import (
    Speed,
    compare,
    counted,
    measure_speed,
    stored_bytes,
    window_nats,
)
from gpt2fast.compress.search.search import Candidate
from gpt2fast.compress.state.artifact import save_model
from gpt2fast.engine.llm import LLM
from gpt2fast.files.atomic import discard, staged_directory
from gpt2fast.files.journal import Journal
from gpt2fast.files.json_file import read_json_object, write_json

HISTORY = "history.json"  # beside a candidate, until its report has it
_HOPELESS = 3.0  # times the allowed loss: such a candidate's speed is not worth measuring twice


@dataclass
class Trials:
    """Candidates of one original on one text; ``work`` has what was measured of each,
    and those worth keeping."""

    pipeline: Pipeline
    texts: Texts
    budget: Budget
    work: Path
    say: ProgressCallback
    result: ProgressCallback
    num_threads: int | None = None

    def __post_init__(self) -> None:
        self._journal = Journal(self.work / "trials")
        self._verified = Journal(self.work / "verified")
        # What was measured of each recipe, by its key.
        self.entries: dict[str, dict[str, Any]] = {
            key: self._journal.facts(key) for key in self._journal.names()
        }

    @cached_property
    def original(self) -> LLM:
        """The model that is compressed, in float32."""
        return LLM(self.pipeline.context.original, num_threads=self.num_threads)

    def open(self, recipe: Recipe) -> LLM:
        """What ``recipe`` made, as saved."""
        return LLM(self.artifact(recipe), num_threads=self.num_threads)

    @cached_property
    def original_nats(self) -> NDArray[np.float64]:
        """Of each predicted token of the text of the selection."""
        rows = self.texts.parts["selection"]
        step = counted(self.say, "the original on the text of the selection", len(rows))
        return window_nats(self.original, rows, step)

    def try_out(self, candidate: Candidate) -> Measured:
        """Measure ``candidate`` on the text of the selection; what was measured already is not
        measured again."""
        recipe = candidate.recipe
        if (entry := self.entries.get(recipe.key)) is None:
            entry = self._measure(recipe)
            self._journal.record(recipe.key, entry)
            self.entries[recipe.key] = entry
        measured = Measured(**entry["measured"])
        self.result(
            f"{recipe.label}: perplexity {measured.loss:+.2f} % "
            f"[{measured.loss_low:+.2f}, {measured.loss_high:+.2f}], "
            f"{measured.speedup:.2f}x as fast, {measured.num_bytes / 1e6:.1f} MB"
        )
        if not self.budget.holds(measured):
            discard(self._directory(recipe))
        return measured

    def seconds(self, candidate: Candidate) -> float:
        """How long it took to make and measure ``candidate``, which has been tried."""
        return float(self.entries[candidate.recipe.key]["seconds"])

    def artifact(self, recipe: Recipe) -> Path:
        """The directory of what ``recipe`` makes; made again if it is not there any more."""
        directory = self._directory(recipe)
        if not (directory / "config.json").is_file():
            model = self.pipeline.run(recipe)
            self.say("saving")
            with staged_directory(directory, replace=True) as stage:
                save_model(model, stage)
                write_json(stage / HISTORY, {"passes": model.history})
            self.pipeline.forget(recipe)
        return directory

    def history(self, recipe: Recipe) -> list[dict[str, Any]]:
        """What the passes of ``recipe`` said of themselves."""
        entry = self.entries.get(recipe.key)
        found = entry["history"] if entry else self._saved_history(recipe)
        return list(found)

    def _saved_history(self, recipe: Recipe) -> list[dict[str, Any]]:
        passes: list[dict[str, Any]] = read_json_object(self.artifact(recipe) / HISTORY)["passes"]
        return passes

    def count_verified(self, recipe: Recipe) -> int:
        """How many artifacts have been verified on this text, that of ``recipe`` and those of
        earlier commands on the same work among them."""
        self._verified.record(recipe.key)
        return len(self._verified.names())

    def _directory(self, recipe: Recipe) -> Path:
        return self.work / "candidates" / recipe.key

    def _measure(self, recipe: Recipe) -> dict[str, Any]:
        begin = time.perf_counter()
        directory = self.artifact(recipe)
        with self.open(recipe) as llm:
            rows = self.texts.parts["selection"]
            nats = window_nats(llm, rows, counted(self.say, "the loss", len(rows)))
            loss = compare(self.original_nats, nats, rows)
            self.say("measuring the speed")
            speed = self._speed(llm, loss.percent)
        measured = Measured(
            loss.percent,
            loss.percent_low,
            loss.percent_high,
            speed.speedup,
            stored_bytes(directory),
        )
        return {
            "key": recipe.key,
            "recipe": recipe.to_json(),
            "label": recipe.label,
            "measured": dict(vars(measured)),
            "speed": speed.to_json(),
            "history": self._saved_history(recipe),
            "seconds": round(time.perf_counter() - begin, 1),
        }

    def _speed(self, llm: LLM, loss: float) -> Speed:
        allowed = self.budget.max_loss
        hopeless = allowed is not None and loss > _HOPELESS * allowed
        return measure_speed(self.original, llm, rounds=1 if hopeless else 5)

    def close(self) -> None:
        """Free the original."""
        if "original" in self.__dict__:
            self.original.close()
