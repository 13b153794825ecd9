"""What ``gpt2fast compress`` is told."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from gpt2fast.compress.budget import Budget
from gpt2fast.compress.calibration.splits import Sizes
from gpt2fast.compress.recipe.recipe import Recipe
from gpt2fast.errors import OptionError

MAX_THREADS, MAX_SEED = 1024, 2**31


@dataclass(frozen=True)
class CompressOptions:
    """What ``gpt2fast compress`` is told. Either a recipe, or a budget to search one for."""

    model: str
    out: Path
    budget: Budget
    recipe: Recipe | None = None
    text: tuple[str, ...] = ()  # files; none: the model writes its own
    verify_text: tuple[str, ...] = ()
    work: Path | None = None  # default: beside ``out``
    revision: str | None = None
    seed: int = 0
    num_threads: int | None = None
    sizes: Sizes = field(default_factory=Sizes)
    command: str = ""

    def __post_init__(self) -> None:
        if self.recipe is None and self.budget == Budget():
            raise OptionError(
                "give a budget (--max-loss, --min-speedup, --max-size) or a --recipe to carry out"
            )
        threads = self.num_threads
        if threads is not None and not 1 <= threads <= MAX_THREADS:
            raise OptionError(f"--num-threads {threads} is not valid: give 1 to {MAX_THREADS}")
        if self.verify_text and not self.text:
            raise OptionError("--verify-text needs --text, the text that passes may see")
        if not 0 <= self.seed < MAX_SEED:
            raise OptionError(f"--seed {self.seed} is not valid: give 0 to {MAX_SEED - 1}")
        work, out = self.work_directory.resolve(), self.out.resolve()
        if work == out or work in out.parents or out in work.parents:
            raise OptionError("--work and OUT lie in each other; choose another --work")

    def request(self) -> dict[str, Any]:
        """What is asked for, as JSON: all but the model and the places."""
        return {
            "budget": self.budget.to_json(),
            "recipe": None if self.recipe is None else self.recipe.to_json(),
            "text": list(self.text),
            "verify_text": list(self.verify_text),
            "sizes": asdict(self.sizes),
            "seed": self.seed,
            "num_threads": self.num_threads,
        }

    @property
    def work_directory(self) -> Path:
        """Where what is done is kept until the artifact is there."""
        return self.work or self.out.with_name(f"{self.out.name}.work")
