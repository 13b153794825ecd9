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
    from gpt2fast.evaluate.bootstrap import Comparison, Interval, interval, paired_comparison
    from gpt2fast.evaluate.divergence import Divergence, compare_logits, kl_and_agreement
    from gpt2fast.evaluate.report import evaluate
    from gpt2fast.evaluate.scoring import Scorer, token_nats
    from gpt2fast.evaluate.summary import perplexity
    from gpt2fast.evaluate.text import Text, read_text
    from gpt2fast.evaluate.windows import Protocol, Window, make_protocol, plain_windows

__all__ = [
    "Comparison",
    "Divergence",
    "Interval",
    "Protocol",
    "Scorer",
    "Text",
    "Window",
    "compare_logits",
    "evaluate",
    "interval",
    "kl_and_agreement",
    "make_protocol",
    "paired_comparison",
    "perplexity",
    "plain_windows",
    "read_text",
    "token_nats",
]

# Looked up on first use: importing this package loads no numpy.
_HOMES = {
    "Comparison": "bootstrap",
    "Divergence": "divergence",
    "Interval": "bootstrap",
    "Protocol": "windows",
    "Scorer": "scoring",
    "Text": "text",
    "Window": "windows",
    "compare_logits": "divergence",
    "evaluate": "report",
    "interval": "bootstrap",
    "kl_and_agreement": "divergence",
    "make_protocol": "windows",
    "paired_comparison": "bootstrap",
    "perplexity": "summary",
    "plain_windows": "windows",
    "read_text": "text",
    "token_nats": "scoring",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'gpt2fast.evaluate' has no attribute {name!r}")
    value = getattr(import_module(f"gpt2fast.evaluate.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
