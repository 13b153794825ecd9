"""The report of ``gpt2fast eval`` for a person."""

from __future__ import annotations

from typing import Any

from gpt2fast.terminal import text_table


def render(report: dict[str, Any]) -> str:
    """The report for a person, one fact a line."""
    rows: list[tuple[str, str]] = [("model", _model(report["model"]))]
    if "reference" in report:
        rows.append(("reference", _model(report["reference"])))
    if "perplexity" in report:
        rows += _text_rows(report)
    if "last_word" in report:
        rows += _last_word_rows(report["last_word"])
    if "bias" in report:
        rows += _bias_rows(report["bias"])
    return text_table(rows, "<")


def _model(facts: dict[str, Any]) -> str:
    options = [f"{key} {value}" for key, value in facts.items() if key != "name"]
    return f"{facts['name']} ({', '.join(options)})" if options else str(facts["name"])


def _text_rows(report: dict[str, Any]) -> list[tuple[str, str]]:
    found = report["perplexity"]
    rows = [
        ("text", f"{_files(found)} (sha256 {found['sha256'][:12]})"),
        (
            "protocol",
            f"{found['protocol']}, detokenizer {found['detokenizer']}, context "
            f"{found['context']}, stride {found['stride']}: {found['tokens']} tokens, "
            f"{found['bytes']} bytes, {found['words']} words in {found['windows']} windows",
        ),
    ]
    for name, unit in _MEASURES.items():
        if name in found:
            rows.append((unit, _with_reference(report, name)))
    if "comparison" in report:
        lost, kl, top = report["comparison"], report["kl"], report["top1_agreement"]
        percent = (lost["percent"], lost["percent_low"], lost["percent_high"])
        rows += [
            ("perplexity change", _bounds(*percent, "+.3f", " %")),
            ("nats a token", _bounds(lost["nats_difference"], lost["low"], lost["high"], "+.5f")),
            ("KL(ref || model)", _interval(kl, ".5f", " nats")),
            ("same favourite", _interval(_percent(top), ".2f", " %")),
        ]
    return rows


def _files(found: dict[str, Any]) -> str:
    return f"{found['files']} files of {found['file']}" if found["files"] > 1 else found["file"]


_MEASURES = {
    "perplexity": "perplexity",
    "bits_per_byte": "bits a byte",
    "word_perplexity": "word perplexity",
    "byte_perplexity": "byte perplexity",
}


def _with_reference(report: dict[str, Any], name: str) -> str:
    found = report["perplexity"]
    low, high = found["interval"][name] or (None, None)
    text = _bounds(found[name], low, high, ".4f")
    if "reference_perplexity" in report:
        text += f"; reference {report['reference_perplexity'][name]:.4f}"
    return text


def _last_word_rows(found: dict[str, Any]) -> list[tuple[str, str]]:
    accuracy = _interval(_percent(found["accuracy"]), ".2f", " %")
    perplexity = _interval(found["perplexity"], ".4f")
    if "reference" in found:
        before = found["reference"]
        accuracy += f"; reference {100 * before['accuracy']['mean']:.2f} %"
        perplexity += f"; reference {before['perplexity']['mean']:.4f}"
    rows = [
        ("last words", f"{found['passages']} of {found['file']} (sha256 {found['sha256'][:12]})"),
        ("accuracy", accuracy),
        ("their perplexity", perplexity),
    ]
    if "comparison" in found:
        change = _percent(found["comparison"]["accuracy_difference"])
        rows.append(("accuracy change", _interval(change, "+.2f", " points")))
    return rows


def _bias_rows(found: dict[str, Any]) -> list[tuple[str, str]]:
    rows = [("bias", "mean log-odds of the first term in nats; spread over words")]
    for name, facts in found["categories"].items():
        text = f"{_interval(facts, '+.3f')}; {facts['spread']:.3f}"
        if "comparison" in found:
            change = found["comparison"][name]
            moved = "changed" if change["changed"] else "not shown to have changed"
            text += (
                f"; change {_interval(change['change'], '+.4f')}, absolute "
                f"{change['absolute_change']['mean']:.4f}: {moved}"
            )
        rows.append((f"  {name}", text))
    return rows


def _percent(facts: dict[str, Any]) -> dict[str, Any]:
    return {
        key: None if facts[key] is None else 100 * facts[key] for key in ("mean", "low", "high")
    }


def _interval(facts: dict[str, Any], form: str, unit: str = "") -> str:
    return _bounds(facts["mean"], facts["low"], facts["high"], form, unit)


def _bounds(
    value: float | None, low: float | None, high: float | None, form: str, unit: str = ""
) -> str:
    """A figure with its interval."""
    shown = "out of range" if value is None else f"{value:{form}}{unit}"
    if low is None or high is None:
        return f"{shown} (too few for an interval)"
    return f"{shown} [{low:{form}}, {high:{form}}]"
