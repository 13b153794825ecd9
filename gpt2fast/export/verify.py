"""What an export is worth: its own graph, run by onnxruntime, beside the model it was made from."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gpt2fast.checkpoint.weight_files import GRAPH
from gpt2fast.errors import GPT2FastError
from gpt2fast.runners.onnx import Session, empty_cache

if TYPE_CHECKING:
    from gpt2fast.config import ModelConfig
    from gpt2fast.export.source import Source

_SHORTER, _STEPS = 77, 24
Logits = NDArray[np.float32]
Cache = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Limits:
    """What may differ: logits from the model's, and between ways to run the graph, as a fraction of
    the largest (integers round activations, so that single logits say nothing); divergence, nats a
    token; perplexity, percent; and the fraction of tokens whose most likely successor must be the
    same."""

    logits: float | None
    ways: float
    divergence: float
    perplexity: float
    agreement: float


LIMITS = {
    "fp32": Limits(1e-4, 1e-4, 1e-6, 1e-3, 0.99),
    "fp16": Limits(2e-2, 2e-2, 1e-3, 0.2, 0.95),
    "bf16": Limits(1e-1, 1e-4, 5e-3, 0.5, 0.9),
    "int8": Limits(None, 5e-2, 5e-3, 0.5, 0.8),
    "int4": Limits(None, 5e-2, 5e-3, 0.5, 0.8),
}


@dataclass(frozen=True)
class Certificate:
    """The graph against the model it was made from, on ``tokens`` tokens of the model's own text.

    Attributes:
        logits_difference: the largest, as a fraction of the largest logit.
        divergence: mean KL divergence of the graph from the model, nats a token.
        perplexity, source_perplexity: of the graph and of the model.
        agreement: fraction of tokens whose most likely successor is the same.
        cached_difference: of logits from a cache and without, as a fraction of the largest.
        batch_difference: the same, of a sequence alone and left-padded beside a longer one.
    """

    precision: str
    runtime: str
    tokens: int
    logits_difference: float
    divergence: float
    perplexity: float
    source_perplexity: float
    agreement: float
    cached_difference: float
    batch_difference: float

    def problems(self) -> list[str]:
        """What exceeds the limits of the precision, in words."""
        limits = LIMITS[self.precision]
        change = abs(self.perplexity / self.source_perplexity - 1.0) * 100.0
        found = {
            f"logits differ by {self.logits_difference:.2g} of the largest": (
                limits.logits is not None and self.logits_difference > limits.logits
            ),
            f"the distributions diverge by {self.divergence:.2g} nats a token": (
                self.divergence > limits.divergence
            ),
            f"perplexity changes by {change:.2g} %": change > limits.perplexity,
            f"{self.agreement:.1%} of the most likely tokens agree": (
                self.agreement < limits.agreement
            ),
            f"a cache changes logits by {self.cached_difference:.2g} of the largest": (
                self.cached_difference > limits.ways
            ),
            f"a batch changes logits by {self.batch_difference:.2g} of the largest": (
                self.batch_difference > limits.ways
            ),
        }
        figures = [value for value in asdict(self).values() if isinstance(value, float)]
        wrong = [text for text, is_wrong in found.items() if is_wrong]
        return wrong if np.isfinite(figures).all() else ["logits are not finite", *wrong]

    def as_dict(self) -> dict[str, Any]:
        """For the report."""
        return {**asdict(self), "limits": asdict(LIMITS[self.precision])}


class Graph:
    """An exported decoder in onnxruntime, on the CPU."""

    def __init__(
        self, directory: Path, config: ModelConfig, num_threads: int | None = None
    ) -> None:
        session = Session(directory / GRAPH, num_threads=num_threads)
        self.config, self.version, self.element = config, session.version, session.element
        self._session = session.run_on
        self._names = [output.name for output in self._session.get_outputs()]

    def empty(self, sequences: int) -> Cache:
        """A cache without tokens."""
        return empty_cache(self.config, self.element, sequences)

    def step(
        self, ids: NDArray[np.int64], mask: NDArray[np.int64], past: Cache, **other: Any
    ) -> tuple[Logits, Cache]:
        """Logits (B, R, V) of new tokens (B, S) under a mask (B, T), and the longer cache."""
        positions = np.maximum(np.cumsum(mask, axis=1) - 1, 0)[:, -ids.shape[1] :]
        given = {"input_ids": ids, "attention_mask": mask, "position_ids": positions}
        logits, *caches = self._session.run(None, {**given, **past, **other})
        names = [name.replace("present", "past_key_values") for name in self._names[1:]]
        return logits.astype(np.float32), dict(zip(names, caches, strict=True))

    def whole(self, tokens: NDArray[np.int64]) -> Logits:
        """Logits (T, V) of one sequence, from nothing."""
        logits, _ = self.step(tokens[None], np.ones((1, len(tokens)), np.int64), self.empty(1))
        alone: Logits = logits[0]
        return alone


def verify(directory: Path, source: Source, num_threads: int | None = None) -> Certificate:
    """Run the graph in ``directory`` on the text of ``source``. Raises GPT2FastError naming what
    differs by more than the precision explains."""
    graph = Graph(directory, source.weights.config, num_threads)
    tokens, logits = source.tokens, graph.whole(source.tokens)
    scale = float(np.abs(source.logits).max())
    log_p, log_q = _log_softmax(source.logits), _log_softmax(logits)
    nats = [-float(each[np.arange(len(tokens) - 1), tokens[1:]].mean()) for each in (log_q, log_p)]
    certificate = Certificate(
        precision=source.precision,
        runtime=f"onnxruntime {graph.version}",
        tokens=len(tokens),
        logits_difference=_largest(logits - source.logits, scale),
        divergence=float((np.exp(log_p) * (log_p - log_q)).sum(-1).mean()),
        perplexity=float(np.exp(nats[0])),
        source_perplexity=float(np.exp(nats[1])),
        agreement=float((logits.argmax(-1) == source.logits.argmax(-1)).mean()),
        cached_difference=_largest(_cached(graph, tokens) - logits, scale),
        batch_difference=_largest(_padded(graph, tokens) - logits[: _shorter(tokens)], scale),
    )
    if problems := certificate.problems():
        raise GPT2FastError(
            f"the exported graph is not the model: {'; '.join(problems)} ({source.precision}, "
            f"{certificate.runtime}); nothing was written"
        )
    return certificate


def _cached(graph: Graph, tokens: NDArray[np.int64]) -> Logits:
    """The first tokens at once, the last one by one."""
    first = max(1, len(tokens) - _STEPS)
    mask = np.ones((1, len(tokens)), np.int64)
    logits, past = graph.step(tokens[None, :first], mask[:, :first], graph.empty(1))
    parts = [logits[0]]
    for at in range(first, len(tokens)):
        # Of one row all are the last.
        keep = {"num_logits_to_keep": np.array(at % 2, np.int64)}
        logits, past = graph.step(tokens[None, at : at + 1], mask[:, : at + 1], past, **keep)
        parts.append(logits[0])
    return np.concatenate(parts)


def _shorter(tokens: NDArray[np.int64]) -> int:
    return min(_SHORTER, len(tokens) - 1)


def _padded(graph: Graph, tokens: NDArray[np.int64]) -> Logits:
    """The beginning of the tokens, left-padded beside all of them; the last from the cache."""
    count, length = _shorter(tokens), len(tokens)
    ids, mask = np.stack([tokens, tokens]), np.ones((2, length), np.int64)
    ids[1, : length - count], ids[1, length - count :] = tokens[0], tokens[:count]
    mask[1, : length - count] = 0
    logits, past = graph.step(ids[:, :-1], mask[:, :-1], graph.empty(2))
    last, _ = graph.step(ids[:, -1:], mask, past)
    rows = np.concatenate([logits[1], last[1]])
    kept: Logits = rows[length - count :]
    return kept


def _log_softmax(logits: Logits) -> NDArray[np.float64]:
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    found: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return found


def _largest(difference: Logits, scale: float) -> float:
    return float(np.abs(difference).max()) / scale
