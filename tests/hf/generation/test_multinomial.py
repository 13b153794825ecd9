"""Drawing tokens as ``torch.multinomial`` does."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from gpt2fast.hf.generation import multinomial  # noqa: E402


@pytest.mark.parametrize("kept", [1, 50, 5000])
@pytest.mark.parametrize("rows", [1, 3])
def test_the_same_tokens_and_the_same_generator(rows: int, kept: int) -> None:
    torch.manual_seed(4)
    scores = 3 * torch.randn(rows, 5000)
    least = scores.topk(kept).values[:, -1:]
    probabilities = torch.softmax(scores.masked_fill(scores < least, -torch.inf), dim=-1)
    assert multinomial.matches_torch(probabilities.numel())
    found = []
    for way in (multinomial.multinomial, lambda each: torch.multinomial(each, 1)[:, 0]):
        torch.manual_seed(9)
        found.append((torch.stack([way(probabilities) for _ in range(40)]), torch.rand(3)))
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])
    assert kept == 1 or len(found[0][0].unique()) > 5


def test_where_torch_makes_its_noise_otherwise_it_draws_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(multinomial, "exponential", lambda uniform, dtype: uniform.to(dtype))
    multinomial._matches_torch.cache_clear()
    probabilities = torch.softmax(torch.randn(2, 77), dim=-1)
    torch.manual_seed(9)
    found = multinomial.multinomial(probabilities)
    torch.manual_seed(9)
    assert torch.equal(found, torch.multinomial(probabilities, 1)[:, 0])
    multinomial._matches_torch.cache_clear()


def test_probabilities_that_are_no_numbers_are_refused_as_torch_does() -> None:
    with pytest.raises(RuntimeError, match="probability tensor contains"):
        multinomial.multinomial(torch.tensor([[0.5, float("nan")]]))


def test_numbers_at_places_are_those_of_torch() -> None:
    theirs, ours = (torch.Generator().manual_seed(7) for _ in range(2))
    rng = np.random.default_rng(7)
    for count in (1, 2, 311, 312, 313, 624, 625, 5000, 100_000):
        whole = torch.empty(count, dtype=torch.float64).uniform_(generator=theirs).numpy()
        places = np.sort(rng.choice(count, min(count, 40), replace=False))
        found = multinomial.uniform_at(places, count, ours).numpy()
        assert np.array_equal(found, whole[places])
        assert torch.equal(ours.get_state(), theirs.get_state())
        if count % 2:  # a single word, and a normal number that is kept for the next call
            for each in (theirs, ours):
                torch.rand(1, generator=each)
                torch.randn(1, generator=each)


def test_threads_that_draw_at_once_get_numbers_of_their_own() -> None:
    torch.manual_seed(3)
    places = np.arange(50)
    with ThreadPoolExecutor(4) as threads:
        found = list(
            threads.map(
                lambda _: multinomial.uniform_at(places, 50, torch.default_generator), range(400)
            )
        )
    assert len(torch.cat(found).unique()) == 400 * 50


def warped(scores: Any, temperature: float, top_k: int, top_p: float, least: int) -> Any:
    """What transformers' loop draws."""
    warpers = [transformers.TemperatureLogitsWarper(temperature)]
    warpers.append(transformers.TopKLogitsWarper(top_k))
    if top_p < 1:
        warpers.append(transformers.TopPLogitsWarper(top_p, min_tokens_to_keep=least))
    for each in warpers:
        scores = each(None, scores)
    return torch.multinomial(torch.softmax(scores, dim=-1), 1)[:, 0]


@pytest.mark.parametrize("rows", [1, 5])
@pytest.mark.parametrize("size", [40, 63, 64, 65, 3000, 50257])
@pytest.mark.parametrize("top_p", [1.0, 0.95, 0.3, 0.01])
def test_tokens_behind_warpers_are_those_of_transformers(
    top_p: float, size: int, rows: int
) -> None:
    draws = torch.Generator().manual_seed(size)
    unsure, seen = 0, set()
    for number in range(30):
        scores = torch.randn(rows, size, generator=draws) * (1 + number % 4)
        given = ((0.8, 1.0, 0.05, 3.0)[number % 4], (1, 20, 50, 4000)[number % 3], top_p, 1)
        torch.manual_seed(number)
        want, after = warped(scores, *given), torch.rand(1)
        torch.manual_seed(number)
        found = multinomial.sample_warped(scores.numpy(), *given)
        if found is None:
            unsure += 1
            found = warped(scores, *given).numpy()  # the generator stands where it stood
        assert np.array_equal(found, want.numpy())
        assert torch.equal(torch.rand(1), after)
        seen.update(found.tolist())
    assert unsure <= 2
    assert len(seen) > 5


@pytest.mark.parametrize("least", [1, 3])
def test_top_p_keeps_the_least(least: int) -> None:
    scores = torch.randn(1, 500, generator=torch.Generator().manual_seed(1)) * 9
    given = (1.0, 50, 0.2, least)
    seen = set()
    for seed in range(60):
        torch.manual_seed(seed)
        want = warped(scores, *given)
        torch.manual_seed(seed)
        found = multinomial.sample_warped(scores.numpy(), *given)
        assert found is not None
        assert found.tolist() == want.tolist()
        seen.update(found.tolist())
    assert 1 <= len(seen) <= least


BELOW_ONE = np.nextafter(np.float32(1), np.float32(0))
# Divides both into the same number.
DIVISOR = next(
    each for each in np.linspace(1.2, 1.9, 99, dtype=np.float32) if 1 / each == BELOW_ONE / each
)
TIES: dict[str, Any] = {
    "at the end of top-k": [3, 2, 1, 1, 0],
    "behind a division": [3, 2, 1, BELOW_ONE, 0],
    "no number": [3, 2, np.nan, 0, 0],
    "no number outside": [3, 2, 1, 0, np.nan],
    "infinite": [np.inf, 2, 1, 0, 0],
    "nothing": [-np.inf] * 5,
}


@pytest.mark.parametrize("scores", TIES.values(), ids=TIES)
def test_what_hangs_on_roundings_is_left_to_torch(scores: list[float]) -> None:
    logits = np.array([[*scores, *[-9.0] * 200]], np.float32)
    before = torch.default_generator.get_state()
    temperature = float(DIVISOR) if scores is TIES["behind a division"] else 1.0
    assert multinomial.sample_warped(logits, temperature, 3, 1.0, 1) is None
    assert torch.equal(torch.default_generator.get_state(), before)


def test_a_nucleus_that_ends_at_a_tie_is_left_to_torch() -> None:
    """Four alike, of which top-p leaves two: which ones is a matter of the sort."""
    logits = np.zeros((1, 300), np.float32)
    logits[0, 10:14] = 20
    assert multinomial.sample_warped(logits, 1.0, 4, 0.4, 1) is None
    assert multinomial.sample_warped(logits, 1.0, 4, 1.0, 1) is not None


WRONG: dict[str, Any] = {
    "logits": {"logits": np.zeros(5, np.float32)},
    "none": {"logits": np.zeros((0, 5), np.float32)},
    "temperature": {"temperature": 0.0},
    "top_k": {"top_k": 0},
    "top_p": {"top_p": -0.1},
    "least": {"least": 0},
    "more than there are": {"least": 9},
}


@pytest.mark.parametrize("change", WRONG.values(), ids=WRONG)
def test_wrong_options_are_refused(change: dict[str, Any]) -> None:
    from gpt2fast._C import draw_tokens

    given = {"logits": np.zeros((2, 5), np.float32), "temperature": 1.0, "top_k": 3, "top_p": 0.5}
    state = {"least": 1, "words": np.ones(624, np.uint64), "used": 624}
    with pytest.raises(ValueError, match="draw_tokens needs"):
        draw_tokens(**{**given, **state, **change})


@pytest.mark.parametrize(
    ("words", "used", "count", "places", "message"),
    [
        (623, 0, 5, [1], "624 words"),
        (624, 625, 5, [1], "624 words"),
        (624, -1, 5, [1], "624 words"),
        (624, 0, -1, [], "must ascend"),
        (624, 0, 2**50, [], "at most 2\\^40"),
        (624, 0, 2**62 + 2**30, [2**62 + 2**29], "at most 2\\^40"),
        (624, 0, 5, [5], "must ascend"),
        (624, 0, 5, [-1], "must ascend"),
        (624, 0, 5, [3, 2], "must ascend"),
    ],
)
def test_places_that_there_are_not(
    words: int, used: int, count: int, places: list[int], message: str
) -> None:
    from gpt2fast._C import uniform_doubles

    with pytest.raises(ValueError, match=message):
        uniform_doubles(np.ones(words, np.uint64), used, count, np.array(places, np.int64))


def test_more_than_there_are_and_none_that_cannot_be() -> None:
    """top_k beyond the vocabulary, and tokens that are barred: out in any order."""
    logits = np.full((1, 300), -np.inf, np.float32)
    logits[0, [7, 9]] = 0
    for top_k in (50, 300, 2**62):
        found = multinomial.sample_warped(logits, 1.0, top_k, 1.0, 1)
        assert found is not None
        assert found[0] in (7, 9)
