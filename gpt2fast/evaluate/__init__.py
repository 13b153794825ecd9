"""How good a model is, and what a change cost: with the protocol stated and an interval on it.

Everything here works on a ``Scorer``: any function from token ids (T,) to logits (T, V). That is
``LLM.logits`` or a torch network, so that a model in memory and its saved artifact are measured by
the same code. Logits are turned into one number a token, window by window; perplexity, intervals
and comparisons are computed from those arrays. Nothing here needs torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gpt2fast.evaluate.bias import BiasOdds, bias_log_odds, read_sentences
    from gpt2fast.evaluate.bias_summary import compare_bias, summarize_bias
    from gpt2fast.evaluate.bootstrap import Comparison, Interval, interval, paired_comparison
    from gpt2fast.evaluate.divergence import Divergence, compare_logits, kl_and_agreement
    from gpt2fast.evaluate.last_word import LastWords, last_words, read_passages
    from gpt2fast.evaluate.report import evaluate
    from gpt2fast.evaluate.scoring import Scorer, token_nats
    from gpt2fast.evaluate.summary import (
        compare_last_words,
        compare_perplexity,
        perplexity,
        summarize_last_words,
    )
    from gpt2fast.evaluate.text import Text, read_text
    from gpt2fast.evaluate.windows import Protocol, Window, make_protocol, plain_windows

__all__ = [
    "BiasOdds",
    "Comparison",
    "Divergence",
    "Interval",
    "LastWords",
    "Protocol",
    "Scorer",
    "Text",
    "Window",
    "bias_log_odds",
    "compare_bias",
    "compare_last_words",
    "compare_logits",
    "compare_perplexity",
    "evaluate",
    "interval",
    "kl_and_agreement",
    "last_words",
    "make_protocol",
    "paired_comparison",
    "perplexity",
    "plain_windows",
    "read_passages",
    "read_sentences",
    "read_text",
    "summarize_bias",
    "summarize_last_words",
    "token_nats",
]

# Looked up on first use: importing this package loads no numpy.
_HOMES = {
    "BiasOdds": "bias",
    "Comparison": "bootstrap",
    "Divergence": "divergence",
    "Interval": "bootstrap",
    "LastWords": "last_word",
    "Protocol": "windows",
    "Scorer": "scoring",
    "Text": "text",
    "Window": "windows",
    "bias_log_odds": "bias",
    "compare_perplexity": "summary",
    "compare_bias": "bias_summary",
    "compare_last_words": "summary",
    "compare_logits": "divergence",
    "evaluate": "report",
    "interval": "bootstrap",
    "kl_and_agreement": "divergence",
    "last_words": "last_word",
    "make_protocol": "windows",
    "paired_comparison": "bootstrap",
    "perplexity": "summary",
    "plain_windows": "windows",
    "read_passages": "last_word",
    "read_sentences": "bias",
    "read_text": "text",
    "summarize_bias": "bias_summary",
    "summarize_last_words": "summary",
    "token_nats": "scoring",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'gpt2fast.evaluate' has no attribute {name!r}")
    value = getattr(import_module(f"gpt2fast.evaluate.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
