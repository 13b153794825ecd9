"""Heads that take their results at padding, where the runner has none: transformers is asked."""

from __future__ import annotations

from typing import Any

import pytest

from support.hf_pair import (
    ANYWHERE,
    ON_THE_RUNNER,
    close,
    left_padding,
    pair,
    same,
    texts,
    torch,
    transformers,
)

RIGHT = left_padding(3, 12).flip(1)
CHOICES = texts()[:, None].repeat(1, 2, 1)
CHOICE_MASK = RIGHT[:, None].repeat(1, 2, 1)


@pytest.mark.parametrize("kind", ["cls_index", "last", "mean", "first"])
@torch.no_grad()
def test_choices_without_a_place(kind: str) -> None:
    ours, theirs = pair("GPT2DoubleHeadsModel", summary_type=kind)
    mask = CHOICE_MASK.flip(-1) if kind == "first" else CHOICE_MASK
    at = (mask.cumsum(-1) - 1).clamp(min=0)
    given = {"attention_mask": mask, "position_ids": at.view(-1, 12)}
    with pytest.warns(UserWarning, match="choices are scored at is padding"):
        found = ours(CHOICES, **given)
    same(found.mc_logits, theirs(CHOICES, **given).mc_logits)


@ON_THE_RUNNER
@torch.no_grad()
def test_choices_at_tokens() -> None:
    ours, theirs = pair("GPT2DoubleHeadsModel")
    given = {"attention_mask": CHOICE_MASK, "mc_token_ids": CHOICE_MASK.sum(-1) - 1}
    same(ours(CHOICES, **given).mc_logits, theirs(CHOICES, **given).mc_logits)
    same(ours(CHOICES).mc_logits, theirs(CHOICES).mc_logits)


@torch.no_grad()
def test_choices_at_a_place_that_is_padding() -> None:
    ours, theirs = pair("GPT2DoubleHeadsModel")
    given = {"attention_mask": CHOICE_MASK, "mc_token_ids": torch.full((3, 2), 11)}
    with pytest.warns(UserWarning, match="choices are scored at is padding"):
        found = ours(CHOICES, **given)
    same(found.mc_logits, theirs(CHOICES, **given).mc_logits)


@pytest.mark.parametrize(
    ("rows", "fields", "mask"),
    [
        (1, {"pad_token_id": None}, RIGHT[2:]),  # the last is taken, whatever it is
        (3, {"pad_token_id": 210}, RIGHT),  # padded with another token than the config's
    ],
)
@torch.no_grad()
def test_classes_told_at_padding(rows: int, fields: dict[str, Any], mask: Any) -> None:
    ours, theirs = pair("GPT2ForSequenceClassification", **fields)
    ids = texts(rows) % 200
    with pytest.warns(UserWarning, match="is classified is padding"):
        found = ours(ids, attention_mask=mask)
    same(found, theirs(ids, attention_mask=mask))


@ON_THE_RUNNER
@pytest.mark.parametrize("flip", [False, True])
@torch.no_grad()
def test_classes_told_at_tokens(flip: bool) -> None:
    ours, theirs = pair("GPT2ForSequenceClassification")
    mask = RIGHT.flip(1) if flip else RIGHT
    ids = torch.where(mask == 1, texts(), 1)
    given = {"attention_mask": mask, "position_ids": (mask.cumsum(1) - 1).clamp(min=0)}
    same(ours(ids, **given).logits, theirs(ids, **given).logits)


class OwnForward(transformers.GPT2LMHeadModel):
    """Looks at the states itself."""

    def forward(self, input_ids: Any, attention_mask: Any = None, **_: Any) -> Any:
        states = self.transformer(input_ids, attention_mask=attention_mask).last_hidden_state
        return self.lm_head(states).mean(1)


class ByName(transformers.GPT2ForSequenceClassification):
    """Calls transformers' forward by its name, not by ``super()``."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        found = transformers.GPT2ForSequenceClassification.forward(self, *args, **kwargs)
        return found.logits


@pytest.mark.parametrize("kind", [OwnForward, ByName])
@torch.no_grad()
def test_forwards_of_one_s_own_may_look_at_padding(kind: type) -> None:
    ours, theirs = pair(kind, pad_token_id=210)
    close(ours(texts()), theirs(texts()))
    with pytest.warns(UserWarning, match="a forward of your own may look at padding"):
        close(ours(texts(), attention_mask=RIGHT), theirs(texts(), attention_mask=RIGHT))


@ANYWHERE
@pytest.mark.parametrize("row", [0, 1])
@torch.no_grad()
def test_one_mask_for_all(row: int) -> None:
    ours, theirs = pair("GPT2ForSequenceClassification")
    mask = RIGHT[row : row + 1]
    same(ours(texts(), attention_mask=mask).logits, theirs(texts(), attention_mask=mask).logits)
