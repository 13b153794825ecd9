"""How far a model's distribution over the next token is from that of a reference."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gpt2fast.errors import OptionError
from gpt2fast.evaluate.scoring import (
    ROWS,
    Scorer,
    Step,
    check_numbers,
    log_sum_exp,
    nats_of,
    rows_of,
)
from gpt2fast.evaluate.windows import Window


@dataclass(frozen=True)
class Divergence:
    """Two models on the same tokens (N,): what each token cost, and how the two distributions
    over it differ."""

    reference_nats: NDArray[np.float64]
    nats: NDArray[np.float64]
    kl: NDArray[np.float64]  # KL(reference || model), nats
    agrees: NDArray[np.bool_]  # whether both think the same token the most likely one


def compare_logits(
    reference: Scorer, scorer: Scorer, windows: Iterable[Window], step: Step | None = None
) -> Divergence:
    """Run both models over ``windows``, one window in memory at a time.

    Raises ``OptionError`` where their vocabularies differ in size, ``GPT2FastError`` for NaN.
    """
    parts: list[Divergence] = []
    for window in windows:
        wanted, targets = rows_of(reference, window)
        found, _ = rows_of(scorer, window)
        if wanted.shape != found.shape:
            raise OptionError(
                f"the reference has logits for {wanted.shape[1]} tokens, the model for "
                f"{found.shape[1]}; their distributions cannot be compared"
            )
        parts.append(
            Divergence(
                reference_nats=nats_of(wanted, targets),
                nats=nats_of(found, targets),
                kl=kl_divergence(wanted, found),
                agrees=wanted.argmax(axis=1) == found.argmax(axis=1),
            )
        )
        if step is not None:
            step()
    if not parts:
        raise OptionError("there are no windows to compare two models on")
    return Divergence(
        np.concatenate([part.reference_nats for part in parts]),
        np.concatenate([part.nats for part in parts]),
        np.concatenate([part.kl for part in parts]),
        np.concatenate([part.agrees for part in parts]),
    )


def kl_and_agreement(
    reference: Scorer, scorer: Scorer, windows: Iterable[Window], step: Step | None = None
) -> tuple[float, float]:
    """Mean KL(reference || model) a token in nats, and the fraction of tokens where both have the
    same favourite."""
    found = compare_logits(reference, scorer, windows, step)
    return float(found.kl.mean()), float(found.agrees.mean())


def kl_divergence(p: NDArray[np.float32], q: NDArray[np.float32]) -> NDArray[np.float64]:
    """KL(p || q) (R,) of the distributions with logits ``p`` and ``q`` (R, V), in nats."""
    of_p, of_q = log_sum_exp(p), log_sum_exp(q)
    result = np.empty(len(p))
    for start in range(0, len(p), ROWS):
        rows = slice(start, start + ROWS)
        shift = of_p[rows] - of_q[rows]
        # Near zero before it is weighted: a sum of large terms that cancel would lose a small
        # divergence in float32. What rounding the shift costs is put back in float64.
        rounded = shift.astype(np.float32)
        ratio = (p[rows] - q[rows]) - rounded[:, None]
        ratio *= np.exp(p[rows] - of_p[rows, None].astype(np.float32))
        result[rows] = ratio.sum(axis=1, dtype=np.float64) + (rounded - shift)
    check_numbers(result)
    return np.maximum(result, 0.0)
