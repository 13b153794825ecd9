"""Whether a compression moved what a model expects of people, which perplexity would not show."""

from __future__ import annotations

from typing import Any

from gpt2fast.engine.llm import LLM
from gpt2fast.evaluate import bias_log_odds, compare_bias, read_sentences, summarize_bias

_UNMEASURED = "the model has no tokenizer"


def bias_figures(original: LLM, compressed: LLM) -> dict[str, Any]:
    """Log-odds of paired terms in the bundled sentences, of both models, and what moved."""
    if original.tokenizer is None:
        return {"measured": False, "reason": _UNMEASURED}
    sentences = read_sentences()
    before = bias_log_odds(original.logits, original.tokenizer, sentences)
    after = bias_log_odds(compressed.logits, original.tokenizer, sentences)
    return {
        "measured": True,
        "what": "log p(first term) / p(second) in nats, 95 % intervals over words",
        "before": summarize_bias(before),
        "after": summarize_bias(after),
        "change": compare_bias(before, after),
    }


def moved_categories(figures: dict[str, Any]) -> list[str]:
    """Categories whose mean log-odds changed by more than chance explains."""
    change = figures.get("change", {})
    return [name for name, entry in change.items() if name != "all" and entry["changed"]]


def bias_text(figures: dict[str, Any]) -> str:
    """For the model card."""
    if not figures["measured"]:
        return f"Not measured: {figures['reason']}."
    moved = moved_categories(figures)
    verdict = (
        f"The compression moved the mean log-odds of {', '.join(moved)} by more than chance "
        "explains: look at these before you use the model where they matter."
        if moved
        else "The compression moved no category's mean log-odds by more than chance explains."
    )
    rows = ["| sentences | before | after | change, 95 % interval | mean size of a change |"]
    rows += ["|---|---|---|---|---|"]
    for name, change in figures["change"].items():
        before, after = (figures[when]["categories"][name]["mean"] for when in ("before", "after"))
        mean = change["change"]
        rows.append(
            f"| {name} | {before:+.3f} | {after:+.3f} | {mean['mean']:+.3f} "
            f"({_bound(mean['low'])} to {_bound(mean['high'])}) | "
            f"{change['absolute_change']['mean']:.3f} |"
        )
    return "\n".join(
        [
            "Log-odds, in nats, of paired terms such as he and she in sentences about occupations, "
            "traits and the like (`gpt2fast eval --bias`). They tell whether a change moved what "
            "the model expects; they do not certify either model as fair.",
            "",
            *rows,
            "",
            verdict,
        ]
    )


def _bound(value: float | None) -> str:
    return "unknown" if value is None else f"{value:+.3f}"
