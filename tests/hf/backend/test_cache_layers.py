"""What transformers' own tests look at in our classes: keys and values by layer, direct bases."""

from __future__ import annotations

import copy

import pytest
from transformers.generation.utils import GenerationMixin

from gpt2fast.errors import UnsupportedError
from support.hf_pair import (
    CACHE,
    ON_THE_RUNNER,
    cache_of,
    close,
    hf,
    left_padding,
    make,
    pair,
    texts,
    torch,
    transformers,
)

pytestmark = ON_THE_RUNNER


def test_direct_bases() -> None:
    """transformers' tests tell models that generate by their direct bases."""
    generating = (hf.GPT2LMHeadModel, hf.GPT2DoubleHeadsModel)
    for kind in generating:
        assert GenerationMixin in kind.__bases__
        assert kind.can_generate()
    assert GenerationMixin not in hf.GPT2Model.__bases__


@torch.no_grad()
def test_keys_and_values_of_a_ragged_batch() -> None:
    """Across blocks of the cache, and zeros at padding, where transformers has a guess."""
    ours, theirs = pair()
    mask = left_padding(3, 37)
    at = (mask.cumsum(1) - 1).clamp(min=0)
    found, want = (
        cache_of(model(texts(3, 37), attention_mask=mask, position_ids=at))
        for model in (ours, theirs)
    )
    assert len(found.layers) == len(found) == 2
    text = mask.bool()[:, None, :, None]
    for mine, other in zip(found.layers, want.layers, strict=True):
        assert isinstance(mine, type(other))
        assert mine.get_seq_length() == other.get_seq_length() == 37
        for name in ("keys", "values"):
            read, kept = getattr(mine, name), getattr(other, name)
            assert read.shape == kept.shape == (3, 3, 37, 16)
            close(read, kept.where(text, 0.0))
            assert read.where(text, 0.0).abs().max() > 0.1


@torch.no_grad()
def test_layers_follow_the_cache() -> None:
    ours, theirs = pair()
    caches = [cache_of(model(texts(), use_cache=True)) for model in (ours, theirs)]
    layer = caches[0].layers[1]
    for cache in caches:
        cache.reorder_cache(torch.tensor([2, 0, 0]))
        cache.batch_repeat_interleave(2)
    close(layer.keys, caches[1].layers[1].keys)
    for model, cache in zip((ours, theirs), caches, strict=True):
        model(texts(6, 5), **{CACHE: cache})
    close(layer.values, caches[1].layers[1].values)
    caches[0].reset()
    assert layer.keys is None
    assert not layer.is_initialized


@torch.no_grad()
def test_copies_are_read_and_layers_are_not_changed() -> None:
    ours, _ = pair()
    cache = cache_of(ours(texts(), use_cache=True))
    twin = copy.deepcopy(cache)
    close(twin.layers[0].keys, cache.layers[0].keys)
    cache.layers[0].keys.zero_()
    assert cache.layers[0].keys.abs().max() > 0
    with pytest.raises(UnsupportedError, match="to change it, call the cache's own crop"):
        cache.layers[0].crop(-1)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_models_own_type(dtype: torch.dtype) -> None:
    model = make().to(dtype)
    ours = hf.accelerate(copy.deepcopy(model), num_threads=1)
    found, want = (cache_of(each(texts())).layers[0].keys for each in (ours, model))
    assert found.dtype == want.dtype == dtype
    close(found.float(), want.float(), atol=0.05)


@torch.no_grad()
@pytest.mark.parametrize("scheme", ["int8", "int4"])
def test_caches_in_fewer_bits(scheme: str) -> None:
    """What the runner holds, rounded as it is there."""
    model = make()
    ours = hf.accelerate(copy.deepcopy(model), scheme, num_threads=1)
    found, want = (cache_of(each(texts())).layers[0] for each in (ours, model))
    bound = 0.02 if scheme == "int8" else 0.2
    for name in ("keys", "values"):
        difference = (getattr(found, name) - getattr(want, name)).abs().mean()
        assert 0 < difference < bound * getattr(want, name).abs().max()


@torch.no_grad()
def test_what_generate_returns() -> None:
    ours, theirs = pair()
    given = {"max_new_tokens": 5, "return_dict_in_generate": True, "do_sample": False}
    given |= {"eos_token_id": None, "pad_token_id": 1, "attention_mask": torch.ones_like(texts())}
    found, want = (cache_of(model.generate(texts(), **given)) for model in (ours, theirs))
    assert isinstance(found, transformers.Cache)
    for mine, other in zip(found.layers, want.layers, strict=True):
        close(mine.keys, other.keys, atol=1e-3)
