"""A recipe carried out, pass after pass, so that an interruption loses one step at most.

In the directory of the work, ``snapshots/<key>`` is the model after the passes of that key (recipes
that begin alike share them), and ``passes/<key>`` is what a pass under way keeps for itself: each
step of it (a block that was quantized, say) is recorded once it is done.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpt2fast.compress.calibration.calibration import Calibration
from gpt2fast.compress.progress import ProgressCallback
from gpt2fast.compress.recipe.recipe import Recipe
from gpt2fast.compress.state.journal import TensorJournal
from gpt2fast.compress.state.model import Model, is_finite
from gpt2fast.compress.state.snapshot import load_snapshot, save_snapshot
from gpt2fast.errors import GPT2FastError
from gpt2fast.files.atomic import discard


@dataclass(frozen=True)
class Context:
    """What a pass may use, beside the model and its own options."""

    calibration: Calibration
    original: Path  # the checkpoint that is compressed: the teacher of a distillation
    work: Path  # a directory of this pass's own, for what it keeps while it goes on
    say: ProgressCallback
    # A pass has one more, with all passes that follow the same ones: for what no option touches.
    shared: Path = Path()


@dataclass(frozen=True)
class Pass:
    """A pass that recipes can name: its options, and what carries it out."""

    options: type
    run: Callable[[Model, Any, Context], None]


@dataclass
class Pipeline:
    """Recipes over one original and one text; ``work`` holds what is done already."""

    passes: Mapping[str, Pass]
    open_original: Callable[[], Model]
    context: Context

    def run(self, recipe: Recipe) -> Model:
        """The model after all passes of ``recipe``; what is on the disk is not done again.

        Raises GPT2FastError where a pass leaves something that is not a number.
        """
        first, model = self._latest(recipe)
        for index in range(first, len(recipe.steps)):
            self._step(model, recipe, index)
        return model

    def forget(self, recipe: Recipe) -> None:
        """The model after ``recipe`` is saved elsewhere: its snapshot only takes room."""
        self._snapshots.remove(recipe.key)

    def _latest(self, recipe: Recipe) -> tuple[int, Model]:
        source = self.context.original
        for count in range(len(recipe.steps), 0, -1):
            model = load_snapshot(self._snapshots, recipe.prefix_key(count), source)
            if model is not None:
                return count, model
        return 0, self.open_original()

    def _step(self, model: Model, recipe: Recipe, index: int) -> None:
        step, key = recipe.steps[index], recipe.prefix_key(index + 1)
        count = len(recipe.steps)
        name = step.name if count == 1 else f"pass {index + 1} of {count}, {step.name}"
        context = Context(
            self.context.calibration,
            self.context.original,
            self.context.work / "passes" / key,
            lambda text: self.context.say(f"{name}: {text}"),
            self.context.work / "shared" / recipe.prefix_key(index),
        )
        context.work.mkdir(parents=True, exist_ok=True)
        begin, before = time.perf_counter(), len(model.history)
        self.context.say(name)
        self.passes[step.name].run(model, step.options, context)
        if not is_finite(model.network):
            raise GPT2FastError(
                f"the pass {step.name} left values that are not numbers; give it milder options or "
                "more calibration text"
            )
        seconds = time.perf_counter() - begin
        for entry in model.history[before:]:
            entry.setdefault("pass", step.name)
        if len(model.history) > before:
            model.history[-1].setdefault("seconds", round(seconds, 2))
        save_snapshot(model, self._snapshots, key)
        discard(context.work)

    @property
    def _snapshots(self) -> TensorJournal:
        """Models after passes, by the key of those passes."""
        return TensorJournal(self.context.work / "snapshots")
