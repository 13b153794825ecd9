"""Models in other floating-point types, and models that are moved."""

from __future__ import annotations

from typing import Any

import pytest

from support.hf_pair import (
    ANYWHERE,
    HEADS,
    ON_THE_RUNNER,
    close,
    hf,
    make,
    pair,
    same,
    texts,
    torch,
)

# How far logits may be off: the runner computes in float32 what transformers rounds after each
# operation, so that of two values near the exact one the tolerance is transformers' own error.
ROUNDING = {torch.bfloat16: 0.05, torch.float16: 0.006, torch.float32: 1e-6}


def far_off(found: Any, want: Any) -> float:
    """The largest difference, as a share of the largest value."""
    found, want = found.double(), want.double()
    return float((found - want).abs().max() / want.abs().max())


@ON_THE_RUNNER
@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("dtype", ROUNDING, ids=str)
@torch.no_grad()
def test_types_of_weights(dtype: Any, kind: str) -> None:
    """Cast after acceleration; outputs have the type that transformers' have."""
    ours, theirs = (model.to(dtype) for model in pair(kind))
    exact = theirs.double()(texts())
    theirs.to(dtype)
    found, want = ours(texts()), theirs(texts())
    assert list(found) == list(want)
    for name, each in want.items():
        if torch.is_tensor(each):
            assert found[name].dtype == each.dtype == dtype
            assert far_off(found[name], exact[name]) < ROUNDING[dtype]
            assert far_off(found[name], each) < 2 * ROUNDING[dtype]


@torch.no_grad()
def test_double_precision_is_left_to_torch() -> None:
    ours, theirs = (model.double() for model in pair())
    with pytest.warns(UserWarning, match="the model is in float64"):
        close(ours(texts()).logits, theirs(texts()).logits, 1e-12)


@ON_THE_RUNNER
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@torch.no_grad()
def test_a_loss_in_half_the_bits(dtype: Any) -> None:
    ours, theirs = (model.to(dtype) for model in pair())
    found, want = ours(texts(), labels=texts()).loss, theirs(texts(), labels=texts()).loss
    assert found.dtype == want.dtype
    assert far_off(found, want) < ROUNDING[dtype]


@ON_THE_RUNNER
@pytest.mark.parametrize("dtype", ROUNDING, ids=str)
def test_generate(dtype: Any) -> None:
    """The tokens follow from the logits, which the outputs hold in the type of transformers'."""
    ours, theirs = (model.to(dtype) for model in pair())
    given = {"max_new_tokens": 6, "return_dict_in_generate": True, "output_scores": True}
    given |= {"output_logits": True, "do_sample": False}
    given["attention_mask"] = torch.ones_like(texts())
    found, want = ours.generate(texts(), **given), theirs.generate(texts(), **given)
    for name in ("scores", "logits"):
        assert found[name][0].dtype == want[name][0].dtype
        assert far_off(found[name][0], want[name][0]) < 2 * ROUNDING[dtype]
    chosen = torch.stack(found.scores).argmax(dim=-1).t()
    length = found.sequences.shape[1] - 12
    assert torch.equal(chosen[0, :length], found.sequences[0, 12:])
    if dtype in (torch.float32, torch.float64):
        assert torch.equal(found.sequences, want.sequences)


@ON_THE_RUNNER
@torch.no_grad()
def test_there_and_back() -> None:
    """Rounded to sixteen bits and cast back: the rounded weights run."""
    ours, theirs = pair()
    before = ours(texts()).logits
    for cast in ("half", "float", "double", "bfloat16", "float"):
        getattr(ours, cast)()
        getattr(theirs, cast)()
        assert ours.dtype == theirs.dtype
    after = ours(texts()).logits
    close(after, theirs(texts()).logits)
    assert not torch.equal(after, before)


@ON_THE_RUNNER
@torch.no_grad()
def test_moves() -> None:
    ours, theirs = pair()
    assert ours.to("cpu") is ours
    assert ours.cpu().device == theirs.device
    ours.to(torch.device("cpu"), torch.float64, non_blocking=True).to(texts().float())
    same(ours(texts()), theirs(texts()))


@ANYWHERE
@torch.no_grad()
def test_a_model_without_memory_has_results_without_memory() -> None:
    """On the device "meta", where there are shapes only."""
    ours, theirs = (model.to("meta") for model in pair(pad_token_id=None))
    found, want = (model(texts().to("meta")).logits for model in (ours, theirs))
    assert found.device == want.device
    assert found.shape == want.shape


@ANYWHERE
@pytest.mark.parametrize("kind", ["GPT2LMHeadModel", "GPT2ForSequenceClassification"])
@torch.no_grad()
def test_autocast(kind: str) -> None:
    ours, theirs = pair(kind)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, want = ours(texts()).logits, theirs(texts()).logits
    assert found.dtype == want.dtype == torch.bfloat16
    assert far_off(found, want) < ROUNDING[torch.bfloat16]


@ON_THE_RUNNER
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@torch.no_grad()
def test_loading_in_another_type(dtype: Any, tmp_path: Any) -> None:
    theirs = make()
    theirs.save_pretrained(tmp_path)
    ours = hf.GPT2LMHeadModel.from_pretrained(tmp_path, dtype=dtype).eval()
    assert ours.dtype == dtype
    assert far_off(ours(texts()).logits, theirs.to(dtype)(texts()).logits) < 2 * ROUNDING[dtype]
