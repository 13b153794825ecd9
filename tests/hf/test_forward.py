"""``forward`` of a language model: logits, loss, states, with and without a cache."""

from __future__ import annotations

import warnings
from typing import Any

import pytest

from gpt2fast.hf.backend import make_runner
from support.hf_pair import (
    ANYWHERE,
    CACHE,
    ON_THE_RUNNER,
    cache_of,
    close,
    hf,
    left_padding,
    pair,
    same,
    same_outcome,
    texts,
    torch,
)

FLAGS: list[dict[str, Any]] = [
    {},
    {"tie_word_embeddings": False},
    {"scale_attn_by_inverse_layer_idx": True, "reorder_and_upcast_attn": True},
    {"activation_function": "gelu", "n_inner": 77},
    {"scale_attn_weights": False, "layer_norm_epsilon": 0.1, "activation_function": "relu"},
]


@ON_THE_RUNNER
@pytest.mark.parametrize("fields", FLAGS, ids=str)
@torch.no_grad()
def test_logits_loss_and_cache(fields: dict[str, Any]) -> None:
    ours, theirs = pair(**fields)
    ids = texts()
    want = theirs(ids, labels=ids)
    found = ours(ids, labels=ids)
    assert torch.is_tensor(found.logits)
    assert isinstance(cache_of(found), hf.NativeCache)
    close(found.logits, want.logits)
    close(found.loss, want.loss)
    cache, parts = None, []
    for start, end in ((0, 5), (5, 6), (6, 12)):
        output = ours(ids[:, start:end], **{CACHE: cache}, use_cache=True)
        cache, parts = cache_of(output), [*parts, output.logits]
    close(torch.cat(parts, dim=1), want.logits)
    assert cache.get_seq_length() == 12
    close(ours(ids, logits_to_keep=2).logits, want.logits[:, -2:])
    assert cache_of(ours(ids, use_cache=False)) is None
    as_tuple = ours(ids, return_dict=False)
    close(as_tuple[0], want.logits)


CALLS: dict[str, dict[str, Any]] = {
    "keep 1": {"logits_to_keep": 1},
    "keep more than there are": {"logits_to_keep": 40},
    "labels in part": {"labels": torch.where(texts() % 3 == 0, -100, texts())},
    "no labels at all": {"labels": torch.full_like(texts(), -100)},
    "items in batch": {"labels": texts(), "num_items_in_batch": 7},
    "tuple": {"return_dict": False, "labels": texts()},
    "tuple without a cache": {"return_dict": False, "use_cache": False},
    "mask of ones": {"attention_mask": torch.ones_like(texts())},
    "mask of booleans": {"attention_mask": torch.ones_like(texts()).bool()},
    "short mask": {"attention_mask": torch.ones(3, 11)},
    "positions": {"position_ids": torch.arange(12)[None]},
    "positions from 7": {"position_ids": torch.arange(7, 19)[None]},
    "types of tokens": {"token_type_ids": texts() % 2},
    "hole in the mask": {"attention_mask": (torch.arange(36).reshape(3, 12) % 5 != 3).long()},
    "positions and a mask": {
        "position_ids": torch.arange(12).expand(3, 12),
        "attention_mask": torch.ones(3, 12),
    },
}


@ANYWHERE
@pytest.mark.parametrize("given", CALLS.values(), ids=CALLS)
@torch.no_grad()
def test_arguments(given: dict[str, Any]) -> None:
    ours, theirs = pair()
    same(ours(texts(), **given), theirs(texts(), **given))
    same(ours(input_ids=texts(), **given), theirs(input_ids=texts(), **given))


@ANYWHERE
@pytest.mark.parametrize("keep", [[3], [0, 11], [-1], [7, 2, 2]], ids=str)
@torch.no_grad()
def test_logits_of_chosen_columns(keep: list[int]) -> None:
    ours, theirs = pair()
    given = {"logits_to_keep": torch.tensor(keep)}
    same(ours(texts(), **given), theirs(texts(), **given))


@ON_THE_RUNNER
@torch.no_grad()
def test_a_loss_over_kept_logits() -> None:
    """Labels of another length than the logits: whatever transformers says of them."""
    ours, theirs = pair()
    ids = texts()
    same_outcome(ours, theirs, lambda model: model(ids, labels=ids, logits_to_keep=4))
    same_outcome(ours, theirs, lambda model: model(ids, labels=ids[:, -4:], logits_to_keep=4))


@pytest.mark.parametrize(
    ("side", "labels"),
    [
        pytest.param("left", None, marks=ON_THE_RUNNER),
        pytest.param("right", "masked", marks=ON_THE_RUNNER),
        # Of padding these want a loss; the first token is foretold from the padding before it.
        pytest.param("left", "masked", marks=ANYWHERE),
        pytest.param("left", "whole", marks=ANYWHERE),
        pytest.param("right", "whole", marks=ANYWHERE),
    ],
)
@torch.no_grad()
def test_padding(side: str, labels: str | None) -> None:
    """The loss counts what the labels count: padding, too, where they do not leave it out."""
    ours, theirs = pair()
    ids = texts()
    mask = left_padding(*ids.shape)
    mask = mask if side == "left" else mask.flip(1)
    given = {"attention_mask": mask, "position_ids": (mask.cumsum(1) - 1).clamp(min=0)}
    if labels is not None:
        given["labels"] = torch.where(mask == 1, ids, -100) if labels == "masked" else ids
    found, want = ours(ids, **given), theirs(ids, **given)
    seen = mask.bool()
    close(found.logits[seen], want.logits[seen])
    same(found.loss, want.loss)


@ON_THE_RUNNER
@torch.no_grad()
def test_texts_that_are_all_padding() -> None:
    """The others are as if these were not there, in this call and behind its cache."""
    ours, theirs = pair()
    ids = texts(4)
    mask = torch.ones_like(ids)
    mask[0], mask[2], mask[3, :9] = 0, 0, 0
    given = {"attention_mask": mask, "position_ids": (mask.cumsum(1) - 1).clamp(min=0)}
    found, want = ours(ids, **given), theirs(ids, **given)
    close(found.logits[mask.bool()], want.logits[mask.bool()])
    more = torch.cat([mask, mask[:, -1:]], dim=1)
    rows = [1, 3]
    given = {"attention_mask": more, "position_ids": torch.tensor([[0], [12], [0], [3]])}
    found, want = (
        model(ids[:, :1], **{CACHE: cache_of(each)}, **given)
        for model, each in ((ours, found), (theirs, want))
    )
    close(found.logits[rows], want.logits[rows])


@ON_THE_RUNNER
@torch.no_grad()
def test_inputs_of_other_kinds() -> None:
    """Integers of 32 bits, parts of a larger tensor, one token, one text."""
    ours, theirs = pair()
    ids = texts(4, 30)
    for part in (ids.int(), ids[:, ::3], ids.t()[:4], ids[:, :1], ids[:1], ids[2:, 5:9]):
        same(ours(part), theirs(part))


@pytest.mark.parametrize(
    "call",
    [
        lambda model: model(texts() + 300),
        lambda model: model(texts() - 50),
        lambda model: model(texts(1, 97)),
        lambda model: model(),
        lambda model: model(texts(), inputs_embeds=torch.zeros(3, 12, 48)),
        lambda model: model(texts(), position_ids=torch.full((3, 12), 96)),
        lambda model: model(texts(), labels=texts(2)),
    ],
    ids=["large", "negative", "long", "nothing", "both", "positions", "labels"],
)
@ANYWHERE
@torch.no_grad()
def test_wrong_arguments_raise_what_they_raise_in_transformers(call: Any) -> None:
    ours, theirs = pair()
    kind, _ = same_outcome(ours, theirs, call)
    assert issubclass(kind, Exception)


@ON_THE_RUNNER
@pytest.mark.parametrize("guard", [torch.no_grad, torch.inference_mode])
def test_results_can_be_written_to(guard: Any) -> None:
    """They are the caller's own: a next call gives the same again."""
    ours, theirs = pair()
    with guard():
        want = theirs(texts()).logits
        found = ours(texts()).logits
        assert found.requires_grad == want.requires_grad
        assert found.is_inference() == want.is_inference()
        found.mul_(0)
        close(ours(texts()).logits, want)


def test_states_and_attentions_in_generate_and_forward() -> None:
    """Transformers computes them; the rest of the result is equal, too."""
    ours, theirs = pair()
    wants = {"output_hidden_states": True, "output_attentions": True}
    with pytest.warns(UserWarning, match="gpt2fast leaves"), torch.no_grad():
        found = ours(texts(), **wants)
    with torch.no_grad():
        want = theirs(texts(), **wants)
    assert len(want.hidden_states) == 3
    assert len(want.attentions) == 2
    same(found, want)
    more = {"max_new_tokens": 5, "pad_token_id": 1, "return_dict_in_generate": True, **wants}
    for mode in ({"do_sample": False}, {"num_beams": 2, "do_sample": False}):
        given = {"attention_mask": torch.ones_like(texts()), **mode, **more}
        want = theirs.generate(texts(), **given)
        assert len(want.hidden_states) == len(want.attentions) == 5
        same(ours.generate(texts(), **given), want)


@torch.no_grad()
def test_a_batch_that_is_larger_than_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """In parts where nobody asks for keys and values, else in transformers."""
    monkeypatch.setattr(make_runner, "_MAX_CONTEXTS", 2)
    ours, theirs = pair()
    ids, positions = texts(7, 40), torch.arange(40)[None]
    mask = torch.ones_like(ids)
    mask[4, 30:] = 0
    given = {"attention_mask": mask, "position_ids": positions, "use_cache": False}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = ours(ids, **given).logits
    close(found[mask.bool()], theirs(ids, **given).logits[mask.bool()])
    with pytest.warns(UserWarning, match=r"gpt2fast leaves .*cache is full, with 192 tokens"):
        cached = ours(ids, **given | {"use_cache": True})
    close(cached.logits[mask.bool()], found[mask.bool()])
    assert cache_of(cached).get_seq_length() == 40
    ends = {"max_new_tokens": 5, "attention_mask": torch.ones_like(ids), "do_sample": False}
    assert torch.equal(ours.generate(ids, **ends), theirs.generate(ids, **ends))


@ANYWHERE
@pytest.mark.parametrize(
    "keep", [None, [0, 3], slice(2, 5), -2, 0, 3, 99, True, torch.tensor([1, 5])], ids=str
)
@torch.no_grad()
def test_which_logits_are_kept(keep: Any) -> None:
    same_outcome(*pair(), lambda model: model(texts(), logits_to_keep=keep).logits)


WRONG: dict[str, Any] = {
    "floats": lambda model: model(texts().float()),
    "truth values": lambda model: model(texts() > 5),
    "bytes": lambda model: model(texts().to(torch.uint8)),
    "one text without a batch": lambda model: model(texts()[0]),
    "too few positions": lambda model: model(texts(), position_ids=torch.arange(11)[None]),
    "positions of two": lambda model: model(texts(1), position_ids=torch.arange(12).expand(2, 12)),
    "a list": lambda model: model(texts().tolist()),
}


@ANYWHERE
@pytest.mark.parametrize("call", WRONG.values(), ids=WRONG)
@torch.no_grad()
def test_wrong_arguments(call: Any) -> None:
    same_outcome(*pair(), lambda model: getattr(call(model), "logits", None))
