"""Pickles that name the modules and attributes of earlier releases load as they did there."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
from transformers.models.gpt2 import modeling_gpt2

from gpt2fast.cli import main
from support.hf_pair import (
    ANYWHERE,
    ON_THE_RUNNER,
    cache_of,
    close,
    hf,
    make,
    pair,
    texts,
    torch,
    transformers,
)

# Where classes and functions were, by where they are.
EARLIER = {
    "gpt2fast.hf.modeling.models\n": "gpt2fast.hf.models\n",
    "gpt2fast.hf.modeling.classes\nnew_instance\n": "gpt2fast.hf.classes\n_revive\n",
    "gpt2fast.hf.backend.options\n": "gpt2fast.hf.native\n",
    "gpt2fast.hf.backend.last_run\n": "gpt2fast.hf.last_run\n",
    "gpt2fast.hf.backend.paged_cache\nrebuild_dynamic_cache\n": "gpt2fast.hf.cache\n_with_layers\n",
    "gpt2fast.hf.weights.packed_modules\n": "gpt2fast.hf.packed\n",
    "gpt2fast.quantization.panel_layout\n": "gpt2fast.panel_layout\n",
    "gpt2fast.hf.modeling.quantizer\n": "gpt2fast.hf.quantizer\n",
}
ATTRIBUTES = {
    "_gpt2fast_options": "_native_options",
    "_gpt2fast_warned": "_native_told",
    "_gpt2fast_ran_with_grad": "_native_trained",
    "_gpt2fast_has_head": "_native_inside",
}


class Louder(transformers.GPT2LMHeadModel):
    """A user's own class."""


def earlier_pickle(value: Any) -> bytes:
    """``value`` as an earlier release pickled it. In protocol 2 names are text that ends with a
    line break, so that others can be put in their place."""
    data = pickle.dumps(value, protocol=2)
    for now, before in EARLIER.items():
        data = data.replace(b"c" + now.encode(), b"c" + before.encode())
    assert b"cgpt2fast.hf" in data
    for module in ("modeling", "backend", "weights"):
        assert b"cgpt2fast.hf." + module.encode() not in data
    return data


def with_earlier_attributes(model: Any) -> Any:
    own = getattr(model, "transformer", model).__dict__
    for now, before in ATTRIBUTES.items():
        if now in own:
            own[before] = own.pop(now)
    return model


@ANYWHERE
@pytest.mark.parametrize("kind", ["GPT2Model", "GPT2LMHeadModel", "GPT2DoubleHeadsModel", Louder])
def test_models(kind: str | type) -> None:
    ours, _ = pair(kind)
    hf.accelerate(ours, quantization="int8", num_threads=1)
    ours(texts())  # with gradients: in torch, with a warning
    with torch.no_grad():
        want = ours(texts())[0]
    loaded = pickle.loads(earlier_pickle(with_earlier_attributes(ours)))
    with torch.no_grad():
        close(loaded(texts())[0], want, atol=0)
    assert loaded.last_run == hf.LastRun("cpu")
    assert not [
        name for name in getattr(loaded, "transformer", loaded).__dict__ if "_native" in name
    ]
    assert type(hf.restore(loaded)).__module__ in (modeling_gpt2.__name__, __name__)


@ON_THE_RUNNER
@torch.no_grad()
def test_quantized_directories(tmp_path: Path) -> None:
    make().save_pretrained(tmp_path / "floats")
    paths = [str(tmp_path / name) for name in ("floats", "int8")]
    assert main(["quantize", *paths, "--quantization", "int8", "--json"]) == 0
    ours = hf.GPT2LMHeadModel.from_pretrained(paths[1])
    want = ours(texts()).logits
    loaded = pickle.loads(earlier_pickle(with_earlier_attributes(ours)))
    close(loaded(texts()).logits, want, atol=0)


@ON_THE_RUNNER
@torch.no_grad()
def test_caches_and_runs() -> None:
    ours, theirs = pair()
    output = ours(texts(), use_cache=True)
    cache = pickle.loads(earlier_pickle(cache_of(output)))
    assert type(cache) is transformers.DynamicCache
    close(cache.layers[1].keys, cache_of(theirs(texts(), use_cache=True)).layers[1].keys)
    assert pickle.loads(earlier_pickle(ours.last_run)) == hf.LastRun("cpu")
