"""Every head: its results on a ragged batch, its losses, its other forms of output."""

from __future__ import annotations

from typing import Any

import pytest

from support.hf_pair import (
    ANYWHERE,
    CACHE,
    HEADS,
    ON_THE_RUNNER,
    cache_of,
    close,
    pair,
    same,
    seeded,
    texts,
    torch,
)

LABELS: dict[str, dict[str, Any]] = {
    "GPT2Model": {},
    "GPT2LMHeadModel": {"labels": texts()},
    "GPT2DoubleHeadsModel": {
        "labels": texts(6).reshape(2, 3, 12),
        "mc_labels": torch.tensor([2, 0]),
        "mc_token_ids": torch.full((2, 3), 11),
    },
    "GPT2ForSequenceClassification": {"labels": torch.tensor([3, 0, 1])},
    "GPT2ForTokenClassification": {"labels": torch.where(texts() % 5 == 4, -100, texts() % 5)},
    "GPT2ForQuestionAnswering": {
        "start_positions": torch.tensor([0, 4, 30]),  # the last is outside of the text
        "end_positions": torch.tensor([[2], [11], [5]]),
    },
}


@pytest.mark.parametrize(
    "kind",
    [
        *(pytest.param(kind, marks=ON_THE_RUNNER) for kind in HEADS[:-1]),
        pytest.param(HEADS[-1], marks=ANYWHERE),  # answers are looked for at padding, too
    ],
)
@torch.no_grad()
def test_every_head_on_a_ragged_batch(kind: str) -> None:
    """Padded on the right, as classifiers are fed, and longer than a step of the runner."""
    ours, theirs = pair(kind, num_labels=4)
    ids = texts(12, 90)
    mask = torch.ones_like(ids)
    for row in range(len(ids)):
        mask[row, 90 - 5 * row :] = 0
        ids[row, 90 - 5 * row :] = 1
    found, want = ours(ids, attention_mask=mask), theirs(ids, attention_mask=mask)
    for name in ("last_hidden_state", "logits", "start_logits", "end_logits"):
        if (expected := want.get(name)) is not None:
            seen = mask[(...,) + (None,) * (expected.dim() - 2)].bool()
            per_token = expected.shape[:2] == mask.shape
            if not per_token or kind == HEADS[-1]:
                seen = torch.ones(())
            close(found[name] * seen, want[name] * seen)


@ON_THE_RUNNER
@torch.no_grad()
def test_multiple_choices() -> None:
    ours, theirs = pair("GPT2DoubleHeadsModel")
    ids = texts(6, 9).reshape(2, 3, 9)
    places = torch.full((2, 3), 8)
    found, want = ours(ids, mc_token_ids=places), theirs(ids, mc_token_ids=places)
    close(found.logits, want.logits)
    close(found.mc_logits, want.mc_logits)


@ON_THE_RUNNER
@pytest.mark.parametrize("as_tuple", [False, True], ids=["dict", "tuple"])
@pytest.mark.parametrize("kind", LABELS)
@torch.no_grad()
def test_losses_and_all_else(kind: str, as_tuple: bool) -> None:
    ours, theirs = pair(kind, num_labels=4 if "Sequence" in kind else 5)
    ids = texts(6).reshape(2, 3, 12) if "Double" in kind else texts()
    for given in ({}, LABELS[kind]):
        given = {**given, "return_dict": not as_tuple}
        want = theirs(ids, **given)
        assert isinstance(want, tuple) == as_tuple
        same(ours(ids, **given), want)
    if not as_tuple and kind != "GPT2Model":
        assert want.loss > 0


@ANYWHERE
@pytest.mark.parametrize("kind", [kind for kind in LABELS if LABELS[kind]])
@torch.no_grad()
def test_losses_of_a_padded_batch(kind: str) -> None:
    """Labels leave padding out, as far as they can: an answer's are among all columns."""
    ours, theirs = pair(kind, num_labels=5)
    ids = texts(6) if "Double" in kind else texts()
    mask = torch.ones_like(ids)
    mask[1, 7:], mask[2, 10:] = 0, 0
    ids[mask == 0] = 1
    given = {**LABELS[kind], "attention_mask": mask}
    if "Double" in kind:
        given["attention_mask"] = mask.reshape(2, 3, 12)
        given["mc_token_ids"] = mask.sum(1).reshape(2, 3) - 1
        given["labels"] = torch.where(mask == 1, ids, -100).reshape(2, 3, 12)
        ids = ids.reshape(2, 3, 12)
    elif "Token" in kind or "LM" in kind:
        given["labels"] = torch.where(mask == 1, given["labels"], -100)
    found, want = ours(ids, **given), theirs(ids, **given)
    close(found.loss, want.loss)
    if "Double" in kind:
        close(found.mc_loss, want.mc_loss)


@ON_THE_RUNNER
@pytest.mark.parametrize("given", ["by the labels", "by the config"])
@pytest.mark.parametrize(
    ("problem", "labels"),
    [
        ("regression", torch.tensor([0.3, -1.0, 2.0])),
        ("regression", torch.tensor([[0.3, 1.0], [-1.0, 0.0], [2.0, 0.5]])),
        ("single_label_classification", torch.tensor([1, 0, 1])),
        ("multi_label_classification", torch.tensor([[0.0, 1.0], [1.0, 1.0], [0.0, 0.0]])),
    ],
    ids=["regression", "two numbers", "single", "multi"],
)
@torch.no_grad()
def test_problems_of_sequence_classification(problem: str, labels: Any, given: str) -> None:
    number = 1 if labels.dtype == torch.float and labels.dim() == 1 else 2
    fields = {"num_labels": number}
    if given == "by the config":
        fields["problem_type"] = problem
    ours, theirs = pair("GPT2ForSequenceClassification", **fields)
    same(ours(texts(), labels=labels), theirs(texts(), labels=labels))
    assert ours.config.problem_type == theirs.config.problem_type is not None


@ON_THE_RUNNER
@torch.no_grad()
def test_a_classifier_without_a_padding_token() -> None:
    """One text is classified by its last token; a batch is refused."""
    ours, theirs = pair("GPT2ForSequenceClassification", pad_token_id=None)
    same(ours(texts(1)), theirs(texts(1)))
    for model in (ours, theirs):
        with pytest.raises(ValueError, match="batch sizes > 1"):
            model(texts())


@ON_THE_RUNNER
@pytest.mark.parametrize("kind", ["GPT2Model", "GPT2ForSequenceClassification"])
@torch.no_grad()
def test_the_cache_of_other_heads(kind: str) -> None:
    ours, theirs = pair(kind)
    results = []
    for model in (ours, theirs):
        first = model(texts()[:, :7], use_cache=True)
        second = model(texts()[:, 7:], **{CACHE: cache_of(first)}, use_cache=True)
        results.append((first, second))
    same(*results)


@ANYWHERE
@pytest.mark.parametrize("kind", LABELS)
def test_states_attentions_and_gradients(kind: str) -> None:
    """Transformers computes them; all results are equal, and so is what reaches the weights."""
    ours, theirs = pair(kind, num_labels=5)
    ids = texts(6).reshape(2, 3, 12) if "Double" in kind else texts()
    given = {**LABELS[kind], "output_hidden_states": True, "output_attentions": True}
    with torch.no_grad():
        want = theirs(ids, **given)
        assert len(want.hidden_states) == 3
        same(ours(ids, **given), want)
    slopes = []
    for model in (ours, theirs):
        found = seeded(lambda model=model: model.train()(ids, **LABELS[kind]))
        loss = found[0].sum() if kind == "GPT2Model" else found.loss
        loss.backward()
        slopes.append({name: each.grad for name, each in model.named_parameters()})
    assert slopes[1]["transformer.wte.weight" if kind != "GPT2Model" else "wte.weight"].any()
    same(*slopes)


@ANYWHERE
@torch.no_grad()
def test_two_heads_generate() -> None:
    ours, theirs = pair("GPT2DoubleHeadsModel")
    results = [
        model.generate(texts(), attention_mask=torch.ones_like(texts()), max_new_tokens=9)
        for model in (ours, theirs)
    ]
    assert torch.equal(*results)
