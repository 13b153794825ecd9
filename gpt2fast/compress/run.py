"""From a checkpoint and a budget (or a recipe) to an artifact that is proven to keep it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gpt2fast.checkpoint import Checkpoint, open_checkpoint
from gpt2fast.checkpoint.json_file import read_json_object
from gpt2fast.checkpoint.save import check_out
from gpt2fast.compress.bias import bias_figures, bias_text
from gpt2fast.compress.budget import Budget, BudgetError
from gpt2fast.compress.ladder import ladder, refined
from gpt2fast.compress.model_card import model_card
from gpt2fast.compress.pareto_plot import plot_pareto
from gpt2fast.compress.passes import PASSES
from gpt2fast.compress.pipeline import Context, Pipeline, Say
from gpt2fast.compress.recipe import Recipe
from gpt2fast.compress.report import Outcome, make_report, weights_digest
from gpt2fast.compress.search import Tried, best_first, nearest, search
from gpt2fast.compress.state import open_model
from gpt2fast.compress.texts import Sizes, Texts, split_texts, written_texts
from gpt2fast.compress.trial import HISTORY, Trials
from gpt2fast.compress.verify import Verification, measured_of, verify
from gpt2fast.errors import CheckpointError, OptionError
from gpt2fast.train.disk import clear_disk_errors
from gpt2fast.train.export import write_json

SHARE = 0.8  # of the allowed loss that the choice may use up; the rest is for chance
MAX_THREADS, MAX_SEED = 1024, 2**31
MOST_VERIFIED = 3  # artifacts: the more are tried on the same text, the less it proves


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

    @property
    def work_directory(self) -> Path:
        """Where what is done is kept until the artifact is there."""
        return self.work or self.out.with_name(f"{self.out.name}.work")


def compress(options: CompressOptions, say: Say, result: Say = lambda line: None) -> dict[str, Any]:
    """Write ``options.out`` and return its report.

    ``say`` is told what goes on, ``result`` what was measured of each candidate.

    Raises BudgetError where nothing that was tried keeps the budget, and then writes no artifact;
    OptionError and CheckpointError for what the user can put right. The input is only read. What is
    done is kept in the work directory, and found there when the same is asked again.
    """
    check_out(options.out)
    with ExitStack() as stack:
        again = "repeat the command to go on"
        stack.enter_context(clear_disk_errors(str(options.work_directory), "--work", again))
        checkpoint = stack.enter_context(open_checkpoint(options.model, options.revision))
        _check_original(checkpoint, options)
        texts = _texts(checkpoint, options, say)
        work = _bind(options, checkpoint, texts)
        context = Context(texts.calibration, checkpoint.path, work, say)
        config = checkpoint.config
        pipeline = Pipeline(PASSES, lambda: open_model(context.original), context)
        trials = Trials(pipeline, texts, options.budget, work, say, result, options.num_threads)
        stack.callback(trials.close)
        # With a recipe there is no choice, so chance on the text of a choice has no say in it.
        share = SHARE if options.recipe is None else 1.0
        tried: list[Tried] = []
        for candidates in ladder(config, options.recipe, options.budget):
            tried += search(candidates, options.budget, trials.try_out, share)
            if best_first(tried, options.budget, share):
                break
        if options.recipe is None:
            finer = refined(config, tried, options.budget, share)
            tried += search(finer, options.budget, trials.try_out, share)
        chosen, verification, count = _verified(trials, tried, options.budget, share)
        report = _write(options, trials, tried, chosen, verification, count)
    shutil.rmtree(work, ignore_errors=True)
    return report


def _check_original(checkpoint: Checkpoint, options: CompressOptions) -> None:
    if checkpoint.quantization is not None:
        raise OptionError(
            f"{checkpoint.path} is stored in {checkpoint.quantization.name}; compress the float "
            "checkpoint it was made from"
        )
    source = checkpoint.path.resolve()
    for place in (options.out.resolve(), options.work_directory.resolve()):
        if place == source or source in place.parents:
            raise OptionError(f"{place} lies in the model's own directory; choose another place")


def _texts(checkpoint: Checkpoint, options: CompressOptions, say: Say) -> Texts:
    tokenizer = checkpoint.load_tokenizer()
    ends = checkpoint.config.eos_token_ids
    length = min(options.sizes.length, checkpoint.config.n_positions)
    sizes = Sizes(length, *(options.sizes.of(part) for part in _PARTS))
    if not options.text:
        say("the model writes text to calibrate, choose and verify on")
        return written_texts(checkpoint.path, sizes, options.seed, options.num_threads)
    if tokenizer is None:
        raise CheckpointError(
            f"{checkpoint.path} has no tokenizer to read --text with; put its files there"
        )
    end = ends[0] if ends else None
    return split_texts(options.text, tokenizer, end, sizes, options.verify_text)


_PARTS = ("calibration", "selection", "verification")


def _bind(options: CompressOptions, checkpoint: Checkpoint, texts: Texts) -> Path:
    """The work directory, made, or found to be that of the same model, text and seed."""
    work = options.work_directory
    identity = {
        "weights_sha256": weights_digest(checkpoint.path),
        "texts": texts.key,
        "seed": options.seed,
        "num_threads": options.num_threads,  # which speeds depend on
    }
    record = work / "work.json"
    if record.is_file():
        if read_json_object(record) != identity:
            raise OptionError(
                f"{work} holds the work on another model, text, seed or number of threads; delete "
                "it, or choose another --work"
            )
        return work
    check_out(work)
    work.mkdir(parents=True, exist_ok=True)
    write_json(record, identity)
    return work


def _verified(
    trials: Trials, tried: Sequence[Tried], budget: Budget, share: float
) -> tuple[Tried, Verification, int]:
    """The smallest candidate that keeps the budget on the text set aside, too."""
    misses: list[str] = []
    for item in best_first(tried, budget, share)[:MOST_VERIFIED]:
        count = trials.count_verified()
        trials.say(f"verifying {item.candidate.recipe.label}")
        with trials.open(item.candidate.recipe) as llm:
            verification = verify(trials.original, llm, trials.texts)
        measured = measured_of(verification, item.measured.num_bytes)
        if budget.holds(measured):
            return item, verification, count
        misses.append(f"{item.candidate.recipe.label}: {', '.join(budget.misses(measured))}")
    if misses:
        raise BudgetError(
            "on the text set aside no candidate keeps the budget: " + "; ".join(misses) + _KEPT
        )
    closest = nearest(tried, budget)
    missed = budget.misses(closest.measured)
    reason = ", ".join(missed) or (
        f"perplexity {closest.measured.loss_high:+.2f} % at worst, too near to what is allowed"
    )
    raise BudgetError(
        f"none of the {len(tried)} recipes tried keeps the budget. The nearest, "
        f"{closest.candidate.recipe.label}: {reason}" + _KEPT
    )


_KEPT = ". Nothing was written; relax the budget, or give more text"


def _write(
    options: CompressOptions,
    trials: Trials,
    tried: Sequence[Tried],
    chosen: Tried,
    verification: Verification,
    count: int,
) -> dict[str, Any]:
    recipe = chosen.candidate.recipe
    artifact = trials.artifact(recipe)
    with trials.open(recipe) as llm:
        trials.say("bias figures")
        bias = bias_figures(trials.original, llm)
    report = make_report(
        Outcome(
            model=options.model,
            original=trials.pipeline.context.original,
            artifact=artifact,
            recipe=recipe,
            passes=trials.history(recipe),
            budget=options.budget,
            texts=trials.texts,
            verification=verification,
            bias=bias,
            tried=[trials.log.entries[item.candidate.recipe.key] for item in tried],
            verified=count,
            command=options.command,
            seed=options.seed,
        )
    )
    (artifact / "report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    (artifact / "README.md").write_text(model_card(report, bias_text(bias)), encoding="utf-8")
    if len(tried) > 1:
        plot_pareto(tried, chosen, options.budget, artifact / "pareto.svg")
    (artifact / HISTORY).unlink(missing_ok=True)  # the report has it
    _move(artifact, options.out)
    return report


def _move(artifact: Path, out: Path) -> None:
    """By one rename, after a copy where the two are on different disks."""
    out.parent.mkdir(parents=True, exist_ok=True)
    if artifact.stat().st_dev != out.parent.stat().st_dev:
        stage = out.with_name(f".{out.name}.partial")
        shutil.rmtree(stage, ignore_errors=True)
        shutil.copytree(artifact, stage)
        artifact = stage
    if out.is_dir():
        out.rmdir()  # an empty one, which check_out() lets pass
    os.replace(artifact, out)
