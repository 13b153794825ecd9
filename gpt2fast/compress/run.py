"""From a checkpoint and a budget (or a recipe) to an artifact that is proven to keep it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from gpt2fast.checkpoint import open_checkpoint
from gpt2fast.compress.budget import Budget, BudgetError
from gpt2fast.compress.options import CompressOptions
from gpt2fast.compress.progress import ProgressCallback
from gpt2fast.compress.recipe.passes import PASSES
from gpt2fast.compress.recipe.pipeline import Context, Pipeline
from gpt2fast.compress.report.bias import bias_figures, bias_text
from gpt2fast.compress.report.deliver import REPORT, deliver, delivered
from gpt2fast.compress.report.model_card import PLOT, model_card
from gpt2fast.compress.report.pareto_plot import plot_pareto
from gpt2fast.compress.report.report import Outcome, make_report
from gpt2fast.compress.search.candidates import REFINED, candidate_sets, refined
from gpt2fast.compress.search.checks import check_request
from gpt2fast.compress.search.evaluate_candidate import Trials
from gpt2fast.compress.search.progress import Count, Trying
from gpt2fast.compress.search.search import Candidate, TrialResult, best_first, nearest, search
from gpt2fast.compress.search.verify import Verification, measured_of, verify
from gpt2fast.compress.search.work import open_work
from gpt2fast.compress.state.model import open_model
from gpt2fast.config import ModelConfig
from gpt2fast.files.atomic import check_out, clear_abandoned, discard, staged_file
from gpt2fast.files.disk import clear_write_errors
from gpt2fast.files.json_file import write_json

SHARE = 0.8  # of the allowed loss that the choice may use up; the rest is for chance
MOST_VERIFIED = 3  # artifacts: the more are tried on the same text, the less it proves

__all__ = ["CompressOptions", "compress"]


def compress(
    options: CompressOptions,
    say: ProgressCallback,
    result: ProgressCallback = lambda line: None,
    trying: Trying = lambda position: None,
) -> dict[str, Any]:
    """Write ``options.out`` and return its report.

    ``say`` is told what goes on, ``result`` what was measured of each candidate, and ``trying``, in
    a search, each candidate before it is tried.

    Raises BudgetError where nothing that was tried keeps the budget, and then writes no artifact;
    OptionError and CheckpointError for what the user can put right. The input is only read. What is
    done is kept in the work directory, and found there when the same is asked again.
    """
    clear_abandoned(options.work_directory)
    with ExitStack() as stack:
        stack.enter_context(clear_write_errors(options.work_directory))
        checkpoint = stack.enter_context(open_checkpoint(options.model, options.revision))
        if (report := delivered(options, checkpoint)) is not None:
            result(f"{options.out} is finished already: nothing is left to do")
            return report
        check_out(options.out)
        config = checkpoint.config
        sets = list(candidate_sets(config, options.recipe, options.budget))
        check_request(options, checkpoint, sets)
        work, texts = open_work(options, checkpoint, say, stack)
        context = Context(texts.calibration, checkpoint.path, work, say)
        pipeline = Pipeline(PASSES, lambda: open_model(context.original), context)
        trials = Trials(pipeline, texts, options.budget, work, say, result, options.num_threads)
        stack.callback(trials.close)
        # With a recipe there is no choice, so chance on the text of a choice has no say in it.
        share = SHARE if options.recipe is None else 1.0
        tried = _searched(options, config, sets, trials, share, trying)
        chosen, verification, count = _verified(trials, tried, options.budget, share)
        report = _write(options, trials, tried, chosen, verification, count)
    discard(work)
    return report


def _searched(
    options: CompressOptions,
    config: ModelConfig,
    sets: Sequence[Sequence[Candidate]],
    trials: Trials,
    share: float,
    trying: Trying,
) -> list[TrialResult]:
    """All that is tried: the sets until one has a candidate that keeps the budget, then what lies
    between that and the next smaller one."""
    searched, budget = options.recipe is None, options.budget
    count = Count(trying if searched else lambda position: None, trials.seconds)
    later = len(REFINED) if searched and budget.max_loss is not None else 0
    tried: list[TrialResult] = []
    for candidates in sets:
        count.next_set(later)
        tried += search(candidates, budget, trials.try_out, share, count.begin)
        if best_first(tried, budget, share):
            break
    if searched:
        count.next_set(0)
        finer = refined(config, tried, budget, share)
        tried += search(finer, budget, trials.try_out, share, count.begin)
    return tried


def _verified(
    trials: Trials, tried: Sequence[TrialResult], budget: Budget, share: float
) -> tuple[TrialResult, Verification, int]:
    """The smallest candidate that keeps the budget on the text set aside, too."""
    misses: list[str] = []
    for item in best_first(tried, budget, share)[:MOST_VERIFIED]:
        count = trials.count_verified(item.candidate.recipe)
        trials.say(f"verifying {item.candidate.recipe.label}")
        with trials.open(item.candidate.recipe) as llm:
            verification = verify(trials.original, llm, trials.texts, trials.say)
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
    tried: Sequence[TrialResult],
    chosen: TrialResult,
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
            tried=[trials.entries[item.candidate.recipe.key] for item in tried],
            verified=count,
            command=options.command,
            request=options.request(),
            seed=options.seed,
            num_threads=options.num_threads,
            revision=options.revision,
        )
    )
    write_json(artifact / REPORT, report)
    with staged_file(artifact / "README.md") as stage:
        stage.write_text(model_card(report, bias_text(bias)), encoding="utf-8")
    if options.recipe is None:
        plot_pareto(tried, chosen, options.budget, artifact / PLOT)
    deliver(artifact, options.out)
    return report
