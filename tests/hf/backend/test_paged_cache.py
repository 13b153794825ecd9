"""Caches: ours and transformers', cut, copied, filled ahead, handed from call to call."""

from __future__ import annotations

import copy
import gc
import pickle
from typing import Any

import numpy as np
import pytest
from transformers.generation.configuration_utils import ALL_CACHE_IMPLEMENTATIONS

from gpt2fast.errors import CacheExhaustedError, UnsupportedError
from gpt2fast.hf.backend import make_runner
from support.hf_pair import (
    ANYWHERE,
    CACHE,
    ON_THE_RUNNER,
    cache_of,
    close,
    left_padding,
    or_skip,
    pair,
    same,
    same_outcome,
    same_texts,
    seeded,
    texts,
    torch,
    transformers,
)


@ON_THE_RUNNER
@torch.no_grad()
def test_the_cache_is_cut_chosen_from_and_repeated() -> None:
    ours, theirs = pair()
    ids, more = texts(), texts(4, 3)
    cache = cache_of(ours(ids, use_cache=True))
    cache.crop(-3)
    cache.batch_select_indices(torch.tensor([2, 0]))
    cache.batch_repeat_interleave(2)
    cache.reorder_cache(torch.tensor([3, 0, 1, 1]))
    assert cache.get_seq_length() == 9
    found = ours(more, **{CACHE: cache}).logits
    whole = torch.cat([ids[[0, 2, 2, 2], :9], more], dim=1)
    close(found, theirs(whole).logits[:, 9:])
    pool = cache.backend.pool
    del cache
    assert pool.stats()["sequences"] == 0


@ON_THE_RUNNER
@pytest.mark.parametrize("count", [0, 2, -2, 5, -5, 12, 50, -50])
@torch.no_grad()
def test_cut(count: int) -> None:
    """By the convention of the version that is installed, then on with other tokens."""

    def cut(model: Any) -> Any:
        cache = cache_of(model(texts(), use_cache=True))
        cache.crop(count)
        length = cache.get_seq_length()
        return length, model(texts(3, 4), **{CACHE: cache}).logits

    same_outcome(*pair(), cut)


@ON_THE_RUNNER
@torch.no_grad()
def test_forgotten_and_begun_again() -> None:
    ours, theirs = pair()
    cache = cache_of(ours(texts(2), use_cache=True))
    cache.reset()
    assert cache.get_seq_length() == 0
    found = ours(texts(), **{CACHE: cache}, use_cache=True)
    close(found.logits, theirs(texts()).logits)
    assert cache_of(found) is cache


@ON_THE_RUNNER
@torch.no_grad()
def test_two_texts_that_take_turns() -> None:
    ours, theirs = pair()
    ids = texts(2, 20)
    caches: list[Any] = [None, None]
    parts: list[list[Any]] = [[], []]
    for start in range(0, 20, 4):
        for row in (0, 1):
            piece = ids[row : row + 1, start : start + 4]
            output = ours(piece, **{CACHE: caches[row]}, use_cache=True)
            caches[row] = cache_of(output)
            parts[row].append(output.logits)
    close(torch.cat([torch.cat(each, dim=1) for each in parts]), theirs(ids).logits)


@ANYWHERE
@pytest.mark.parametrize("copier", [copy.copy, copy.deepcopy], ids=["shallow", "deep"])
@torch.no_grad()
def test_a_beginning_that_several_texts_share(copier: Any) -> None:
    """Filled once, and copied for each text that goes on from it."""
    results = []
    for model in pair():
        beginning = cache_of(model(texts(1), use_cache=True))
        found = []
        for seed in range(2 if copier is copy.deepcopy else 1):
            more = torch.cat([texts(1), texts(3, 5)[seed : seed + 1]], dim=1)
            cache = copier(beginning)
            given = {CACHE: cache, "attention_mask": torch.ones_like(more)}
            found.append(model.generate(more, max_new_tokens=6, **given))
            found.append(cache.get_seq_length())
        found.append(beginning.get_seq_length() if copier is copy.deepcopy else None)
        results.append(found)
    same(*results)


@ANYWHERE
@pytest.mark.parametrize("reason", ["attentions", "states", "gradients", "hook", "embeddings"])
def test_a_text_that_goes_on_in_transformers(reason: str) -> None:
    """Its beginning ran on the runner; what follows needs transformers' own layers."""
    results = []
    for model in pair():
        with torch.no_grad():
            cache = cache_of(model(texts()[:, :7], use_cache=True))
        given: dict[str, Any] = {"input_ids": texts()[:, 7:], CACHE: cache}
        if reason == "attentions":
            given["output_attentions"] = True
        elif reason == "states":
            given["output_hidden_states"] = True
        elif reason == "embeddings":
            given["inputs_embeds"] = model.get_input_embeddings()(given.pop("input_ids"))
        elif reason == "hook":
            model.transformer.h[0].register_forward_hook(lambda *_: None)
        with torch.set_grad_enabled(reason == "gradients"):
            results.append(model(**given, use_cache=True))
    same(*results)


@ANYWHERE
@pytest.mark.parametrize("kind", ["ours", "dynamic", "static"])
@pytest.mark.parametrize("padded", [False, True], ids=["whole", "padded"])
def test_a_chat(kind: str, padded: bool) -> None:
    """What one ``generate`` leaves in the cache a next one with longer texts goes on from."""
    results = []
    for model in pair():
        cache = None
        if kind == "dynamic":
            cache = transformers.DynamicCache()
        elif kind == "static":
            cache = transformers.StaticCache(config=model.config, max_cache_len=60)
        ids = texts()
        mask = left_padding(*ids.shape) if padded else torch.ones_like(ids)
        given = {"max_new_tokens": 5, "pad_token_id": 1, "eos_token_id": None}
        given |= {"return_dict_in_generate": True, "output_logits": True}
        for turn in range(3):
            output = model.generate(ids, attention_mask=mask, **{CACHE: cache}, **given)
            cache = cache_of(output)
            results.append(output)
            ids = torch.cat([output.sequences, texts(3, 4 + turn)], dim=1)
            mask = torch.cat([mask, torch.ones(3, ids.shape[1] - mask.shape[1])], dim=1).long()
    for found, want in zip(results[:3], results[3:], strict=True):
        same(found, want)


def chat(model: Any, **given: Any) -> Any:
    torch.manual_seed(1)
    given |= {"max_new_tokens": 6, "return_dict_in_generate": True}
    first = model.generate(texts(1), attention_mask=torch.ones_like(texts(1)), **given)
    longer = torch.cat([first.sequences, texts(1, 4)], dim=1)
    given |= {CACHE: cache_of(first)}
    second = model.generate(longer, attention_mask=torch.ones_like(longer), **given)
    assert cache_of(second) is cache_of(first)
    return first, second


@ON_THE_RUNNER
@pytest.mark.parametrize("mode", [{}, {"do_sample": True}], ids=str)
def test_a_chat_on_the_runner(mode: dict[str, Any]) -> None:
    """A cache that is given is the one that is returned."""
    ours, theirs = pair()
    same(chat(ours, **mode), chat(theirs, **mode))


@ANYWHERE
def test_a_chat_with_drafts() -> None:
    """Of a text that goes on transformers 5.23 counts other positions than before."""
    ours, theirs = pair()
    same(chat(ours, prompt_lookup_num_tokens=3), chat(theirs, prompt_lookup_num_tokens=3))


@ANYWHERE
@pytest.mark.parametrize("name", ALL_CACHE_IMPLEMENTATIONS)
def test_implementations(name: str) -> None:
    ours, theirs = pair()
    given = {"attention_mask": left_padding(3, 12), "max_new_tokens": 8, "eos_token_id": None}
    given |= {"cache_implementation": name, "return_dict_in_generate": True}
    modes: list[dict[str, Any]] = [{}]
    if name in ("dynamic", "static"):
        modes += [{"num_beams": 2}]
    for mode in modes:
        want = same_outcome(ours, theirs, lambda m, o=mode: m.generate(texts(), **given, **o))
        assert name not in ("dynamic", "static") or torch.is_tensor(want.sequences)


@ANYWHERE
@pytest.mark.parametrize("size", [1, 5, 64])
@pytest.mark.parametrize("mode", [{}, {"num_beams": 3}, {"do_sample": True}], ids=str)
def test_prompts_in_pieces(size: int, mode: dict[str, Any]) -> None:
    ours, theirs = pair()
    given = {"max_new_tokens": 6, "eos_token_id": None, "return_dict_in_generate": True, **mode}
    pieces = {"prefill_chunk_size": size}
    or_skip(lambda: theirs.generate(texts(), **given, **pieces))
    same_texts(ours, theirs, texts(), output_logits=True, **given, **pieces)
    given["attention_mask"] = left_padding(3, 12)
    found = [
        seeded(lambda o=o: theirs.generate(texts(), **given, **o).sequences) for o in ({}, pieces)
    ]
    if torch.equal(*found):  # some versions count positions of pieces from the padding
        same_texts(ours, theirs, texts(), **given, **pieces)


@ANYWHERE
@torch.no_grad()
def test_a_cache_of_transformers_is_filled() -> None:
    """The caller's own object, which afterwards holds the text."""
    results = []
    for model in pair():
        cache = transformers.DynamicCache()
        model(texts(), **{CACHE: cache})
        keys = [layer.keys for layer in cache.layers]
        results.append((cache.get_seq_length(), keys, model(texts(), **{CACHE: cache})))
    same(*results)


@ANYWHERE
@torch.no_grad()
def test_tuples_of_keys_and_values() -> None:
    """What versions before 5 take and make."""
    if not hasattr(transformers.DynamicCache, "from_legacy_cache"):
        pytest.skip("the installed transformers has no such tuples")
    ours, theirs = pair()
    layers = cache_of(theirs(texts(), use_cache=True)).to_legacy_cache()
    same(*(model(texts(3, 4), **{CACHE: layers}, use_cache=True) for model in (ours, theirs)))


@torch.no_grad()
def test_a_step_that_has_no_room_leaves_texts_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of those that shared a block one has got its own already, with what was in it."""
    monkeypatch.setattr(make_runner, "_MAX_CONTEXTS", 1)
    ours, theirs = pair()
    ids = texts(1, 70)
    cache = cache_of(ours(ids, use_cache=True))
    cache.batch_repeat_interleave(3)
    with pytest.raises(CacheExhaustedError):
        cache.decode(np.array([5, 6, 7]), np.copy)
    cache.batch_select_indices(torch.tensor([0]))
    more = texts(1, 3)
    found = ours(more, **{CACHE: cache}).logits
    close(found, theirs(torch.cat([ids, more], dim=1)).logits[:, -3:])


@ON_THE_RUNNER
@torch.no_grad()
def test_memory_of_the_caller_may_be_used_again() -> None:
    """One buffer for the input of all steps, and a prompt that is overwritten behind the call."""
    states = []
    for model in pair():
        prompt, step = texts(1), texts(1)[:, :1].clone()
        found = model(prompt)
        prompt.zero_()
        for _ in range(4):
            step.copy_(found.logits[:, -1:].argmax(-1))
            found = model(step, **{CACHE: cache_of(found)})
        states.append((model, cache_of(found), step))
    with pytest.warns(UserWarning, match="output_hidden_states"):
        found, want = (
            model(step, **{CACHE: past}, output_hidden_states=True) for model, past, step in states
        )
    close(found.logits, want.logits)


@ON_THE_RUNNER
@pytest.mark.parametrize("moved", [False, True])
@torch.no_grad()
def test_outputs_are_pickled_as_those_of_transformers(moved: bool) -> None:
    ours, theirs = pair()
    found, want = ours(texts()), theirs(texts())
    if moved:
        cache_of(found).move_to_torch(ours.transformer)
    loaded = pickle.loads(pickle.dumps(found))
    assert type(cache_of(loaded)) is transformers.DynamicCache
    next_one = texts()[:, :1]
    want = theirs(next_one, **{CACHE: cache_of(want)}).logits
    close(theirs(next_one, **{CACHE: cache_of(loaded)}).logits, want)
    if not moved:  # what was pickled goes on where it was
        close(ours(next_one, **{CACHE: cache_of(found)}).logits, want)


@torch.no_grad()
def test_a_cache_without_its_model_is_not_pickled() -> None:
    past = cache_of(pair()[0](texts()))
    gc.collect()
    with pytest.raises(UnsupportedError, match="the model that it came from is gone"):
        pickle.dumps(past)


@ON_THE_RUNNER
@pytest.mark.parametrize("rows", [[True, False, True], [1, 0], [2]], ids=str)
@pytest.mark.parametrize("as_list", [False, True])
@torch.no_grad()
def test_rows_are_kept(rows: list[Any], as_list: bool) -> None:
    if as_list and rows[0] is True:
        pytest.skip("transformers' layers take no such list")
    kept = []
    for model in pair():
        past = cache_of(model(texts()))
        past.batch_select_indices(rows if as_list else torch.tensor(rows))
        step = texts(2 if len(rows) > 1 else 1)[:, :1]
        kept.append(model(step, **{CACHE: past}).logits)
    close(*kept)


@ANYWHERE
@torch.no_grad()
def test_a_padded_beginning_without_a_mask_later() -> None:
    """Without a mask transformers looks at the padding, too."""
    mask = left_padding(3, 12)
    at = (mask.cumsum(1) - 1).clamp(min=0)
    found, want = (
        model(
            texts()[:, :1],
            **{CACHE: cache_of(model(texts(), attention_mask=mask, position_ids=at))},
            position_ids=at[:, -1:] + 1,
        )
        for model in pair()
    )
    close(found.logits, want.logits)


@ANYWHERE
@torch.no_grad()
def test_keys_are_computed_again_without_dropout() -> None:
    """Also where training goes on meanwhile, which draws no fewer random numbers then."""
    ours, theirs = pair()
    caches = [cache_of(model(texts())) for model in (ours, theirs)]
    ours.train()
    torch.manual_seed(4)
    loaded = pickle.loads(pickle.dumps(caches[0]))
    after = torch.rand(1)
    assert all(each.training for each in ours.modules())
    torch.manual_seed(4)
    assert torch.equal(after, torch.rand(1))
    for found, want in zip(loaded.layers, caches[1].layers, strict=True):
        close(found.keys, want.keys)
