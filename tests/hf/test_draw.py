"""Drawing tokens as ``torch.multinomial`` does."""

from __future__ import annotations

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
