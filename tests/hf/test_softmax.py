"""The softmax of a few scores among many is torch's, to the last bit."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from gpt2fast.hf import softmax as module  # noqa: E402


@pytest.mark.parametrize("size", [1, 7, 64, 65, 300, 8191, 50257, 50304])
@pytest.mark.parametrize("lanes_are_known", [True, False])
def test_the_same_bits(size: int, lanes_are_known: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not lanes_are_known:
        monkeypatch.setattr(module, "_adds_in_lanes", lambda: False)
    rng = np.random.default_rng(size)
    for count in (1, 2, 50, 700):
        for _ in range(20):
            places = np.sort(rng.choice(size, min(count, size), replace=False))
            values = torch.from_numpy(rng.normal(0, 3, len(places)).astype(np.float32))
            scores = torch.full((size,), -torch.inf)
            scores[places] = values
            want = torch.softmax(scores, dim=-1)[places]
            assert torch.equal(module.softmax(places, values, size), want)


def test_lanes_are_those_of_the_torch_that_is_installed() -> None:
    assert module._adds_in_lanes()


def test_other_sums_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LANES", 3)
    module._adds_in_lanes.cache_clear()
    assert not module._adds_in_lanes()
    module._adds_in_lanes.cache_clear()


def test_no_scores_at_all() -> None:
    assert module.softmax(np.empty(0, np.int64), torch.empty(0), 9).shape == (0,)
