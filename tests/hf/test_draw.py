"""Drawing tokens as ``torch.multinomial`` does."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from gpt2fast.hf import draw as drawing  # noqa: E402


@pytest.mark.parametrize("kept", [1, 50, 5000])
@pytest.mark.parametrize("rows", [1, 3])
def test_the_same_tokens_and_the_same_generator(rows: int, kept: int) -> None:
    torch.manual_seed(4)
    scores = 3 * torch.randn(rows, 5000)
    least = scores.topk(kept).values[:, -1:]
    probabilities = torch.softmax(scores.masked_fill(scores < least, -torch.inf), dim=-1)
    assert drawing.is_known(probabilities.numel())
    found = []
    for way in (drawing.draw, lambda each: torch.multinomial(each, 1)[:, 0]):
        torch.manual_seed(9)
        found.append((torch.stack([way(probabilities) for _ in range(40)]), torch.rand(3)))
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])
    assert kept == 1 or len(found[0][0].unique()) > 5


def test_where_torch_makes_its_noise_otherwise_it_draws_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(drawing, "exponential", lambda uniform, dtype: uniform.to(dtype))
    drawing.is_known.cache_clear()
    probabilities = torch.softmax(torch.randn(2, 77), dim=-1)
    torch.manual_seed(9)
    found = drawing.draw(probabilities)
    torch.manual_seed(9)
    assert torch.equal(found, torch.multinomial(probabilities, 1)[:, 0])
    drawing.is_known.cache_clear()


def test_probabilities_that_are_no_numbers_are_refused_as_torch_does() -> None:
    with pytest.raises(RuntimeError, match="probability tensor contains"):
        drawing.draw(torch.tensor([[0.5, float("nan")]]))


def test_numbers_at_places_are_those_of_torch() -> None:
    theirs, ours = (torch.Generator().manual_seed(7) for _ in range(2))
    rng = np.random.default_rng(7)
    for count in (1, 2, 311, 312, 313, 624, 625, 5000, 100_000):
        whole = torch.empty(count, dtype=torch.float64).uniform_(generator=theirs).numpy()
        places = np.sort(rng.choice(count, min(count, 40), replace=False))
        found = drawing.uniform_at(places, count, ours).numpy()
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
                lambda _: drawing.uniform_at(places, 50, torch.default_generator), range(400)
            )
        )
    assert len(torch.cat(found).unique()) == 400 * 50


@pytest.mark.parametrize(
    ("words", "used", "count", "places", "message"),
    [
        (623, 0, 5, [1], "624 words"),
        (624, 625, 5, [1], "624 words"),
        (624, -1, 5, [1], "624 words"),
        (624, 0, -1, [], "624 words"),
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
