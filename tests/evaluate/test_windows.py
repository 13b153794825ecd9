"""Each protocol predicts the tokens that its definition says, from what stands before them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpt2fast.errors import OptionError
from gpt2fast.evaluate import interval, make_protocol, plain_windows, token_nats
from gpt2fast.evaluate.windows import Window, groups_of, weights_of
from support.model_grid import BASE

Make = Callable[..., tuple[Path, Any]]


def windows(name: str, length: int, context: int, stride: int | None = None) -> list[Window]:
    protocol = make_protocol(name, 1000, context, stride, prefix=999)
    return list(protocol.windows([tuple(range(length))]))


@pytest.mark.parametrize(("length", "context", "stride"), [(50, 16, 8), (50, 16, 15), (7, 16, 8)])
def test_stride_predicts_each_token_but_the_first_once(
    length: int, context: int, stride: int
) -> None:
    predicted: list[int] = []
    for window in windows("stride", length, context, stride):
        assert len(window.tokens) <= context
        assert window.counted < len(window.tokens), "a first token has nothing before it"
        assert window.weight == 1.0
        predicted += window.tokens[-window.counted :]
    assert predicted == list(range(1, length))


def test_lm_eval_is_the_example_of_its_documentation() -> None:
    found = [(w.tokens[:-1], w.tokens[-w.counted :]) for w in windows("lm-eval", 10, 4)]
    # What the model reads (its last block shifted to a full context), and what is predicted.
    assert found == [
        ((999, 0, 1, 2), (0, 1, 2, 3)),
        ((3, 4, 5, 6), (4, 5, 6, 7)),
        ((5, 6, 7, 8), (8, 9)),
    ]


@pytest.mark.parametrize("length", [1, 4, 5, 8, 9])
def test_lm_eval_predicts_every_token_once(length: int) -> None:
    found = windows("lm-eval", length, 4)
    assert [t for w in found for t in w.tokens[-w.counted :]] == list(range(length))
    assert all(len(w.tokens) <= 5 for w in found)
    assert found[0].tokens[0] == 999
    assert all(999 not in w.tokens for w in found[1:])


def test_lm_eval_takes_documents_for_themselves() -> None:
    protocol = make_protocol("lm-eval", 8, None, None, prefix=99)
    found = list(protocol.windows([tuple(range(10)), (20, 21)]))
    assert [w.group for w in found] == [0, 0, 1], "documents, not windows, are resampled"
    assert found[2].tokens == (99, 20, 21)


@pytest.mark.parametrize("stride", [5, 16, 24])
def test_transformers_script(make_checkpoint: Make, stride: int) -> None:
    """The script's arithmetic with transformers' own model and loss."""
    torch = pytest.importorskip("torch")
    _, model = make_checkpoint(**{**BASE, "n_positions": 24})
    length, context = 89, 24
    tokens = np.random.default_rng(3).integers(0, model.config.vocab_size, length)
    total = count = done = 0.0
    for begin in range(0, length, stride):
        end = min(begin + context, length)
        new = int(end - done)
        ids = torch.from_numpy(tokens[None, begin:end])
        labels = ids.clone()
        labels[:, :-new] = -100
        with torch.no_grad():
            loss = float(model(ids, labels=labels).loss)
        valid = int((labels != -100).sum()) - 1
        total, count, done = total + loss * valid, count + valid, end
        if end == length:
            break

    def score(ids: Any) -> Any:
        with torch.no_grad():
            return model(torch.tensor([list(ids)])).logits[0].numpy()

    protocol = make_protocol("transformers", context, None, stride)
    found = list(protocol.windows([tuple(map(int, tokens))]))
    nats = token_nats(score, found)
    mean = interval(nats, groups_of(found), weights=weights_of(found)).mean
    assert weights_of(found).sum() == pytest.approx(count)
    assert mean == pytest.approx(total / count, rel=1e-6)
    if stride < context:
        assert mean != pytest.approx(float(nats.mean()), rel=1e-6), "its weights are its own"


def test_choices_of_the_protocols() -> None:
    assert make_protocol("stride", 1024, None, None).stride == 512
    assert make_protocol("transformers", 1024, None, None).stride == 512
    assert make_protocol("transformers", 256, None, None).stride == 256
    assert make_protocol("lm-eval", 1024, None, None, 0).stride == 1024


@pytest.mark.parametrize(
    ("name", "context", "stride", "message"),
    [
        ("ours", None, None, "protocol = 'ours' is unknown; choose from stride"),
        ("stride", 65, None, r"context = 65 is not in \[2, 64\]"),
        ("stride", 1, None, "context = 1 "),
        ("stride", None, 64, r"stride = 64 is not in \[1, 63\]"),
        ("transformers", None, 65, r"stride = 65 is not in \[1, 64\]"),
        ("transformers", None, 0, "stride = 0"),
        ("lm-eval", None, 32, "stride = 32: lm-eval's protocol has none"),
        ("lm-eval", None, None, "config.json has neither"),
    ],
)
def test_what_makes_no_sense(
    name: str, context: int | None, stride: int | None, message: str
) -> None:
    with pytest.raises(OptionError, match=message):
        make_protocol(name, 64, context, stride)


def test_plain_windows_predict_all_but_the_first() -> None:
    found = plain_windows(np.arange(12).reshape(2, 6))
    assert [w.tokens for w in found] == [tuple(range(6)), tuple(range(6, 12))]
    assert groups_of(found).tolist() == [0] * 5 + [1] * 5
