"""Log probabilities and ranks of one row of logits."""

from __future__ import annotations

import numpy as np
import pytest

from gpt2fast.engine.logprobs import top_logprobs


def test_top_logprobs() -> None:
    logits = (np.random.default_rng(5).normal(size=50) * 3).astype(np.float32)
    log_probs = np.log(np.exp(logits.astype(float)) / np.exp(logits.astype(float)).sum())
    order = np.argsort(-log_probs)
    chosen, *best = top_logprobs(logits, int(order[7]), 3)
    assert chosen[0] == order[7]
    assert chosen[2] == 8
    assert [token for token, _, _ in best] == order[:3].tolist()
    assert [rank for _, _, rank in best] == [1, 2, 3]
    for token, value, _ in (chosen, *best):
        assert value == pytest.approx(log_probs[token], abs=1e-5)
    assert len(top_logprobs(logits, 0, 0)) == 1
