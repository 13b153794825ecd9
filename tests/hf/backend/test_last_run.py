"""Where a call ran, and ``strict``, which lets none run in transformers."""

from __future__ import annotations

import copy
import inspect
import pickle
from pathlib import Path
from typing import Any

import pytest

from gpt2fast import NotAcceleratedError, OptionError
from support.hf_pair import (
    ANYWHERE,
    CACHE,
    HEADS,
    cache_of,
    close,
    hf,
    make,
    pair,
    texts,
    torch,
    transformers,
)

CPU = hf.LastRun("cpu")


@ANYWHERE
@pytest.mark.parametrize("kind", [*HEADS, "GPT2DoubleHeadsModel"])
def test_forward(kind: str) -> None:
    ours, _ = pair(kind)
    assert ours.last_run is None
    ids = texts()[:, None] if kind == "GPT2DoubleHeadsModel" else texts()
    with torch.no_grad():
        ours(ids)
    assert ours.last_run == CPU
    ours(ids)
    assert ours.last_run.runner == "torch"
    assert "gradients are wanted" in ours.last_run.reason
    with torch.no_grad():
        ours(ids)
    assert ours.last_run == CPU
    for twin in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        assert twin.last_run is None
    assert hf.accelerate(ours).last_run is None
    assert not hasattr(hf.restore(ours), "last_run")


@ANYWHERE
@torch.no_grad()
def test_a_reason_of_the_head() -> None:
    ours, _ = pair("GPT2ForQuestionAnswering")
    mask = torch.ones_like(texts())
    mask[0, -2:] = 0
    ours(texts(), attention_mask=mask)
    assert ours.last_run.runner == "torch"
    assert ours.last_run.reason


MODES = [
    {},
    {"do_sample": True, "top_k": 20},
    {"num_beams": 2},
    {"use_cache": False},
    {"prompt_lookup_num_tokens": 2},
]
IN_TORCH = [
    ({"output_attentions": True, "return_dict_in_generate": True}, "output_attentions"),
    ({"cache_implementation": "static"}, "transformers|mask"),
]


def generate(model: Any, **options: Any) -> Any:
    ids = texts(1)
    return model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=5, **options)


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_generate(mode: dict[str, Any]) -> None:
    ours, _ = pair()
    generate(ours, **mode)
    assert ours.last_run == CPU
    generate(hf.accelerate(ours, strict=True), **mode)
    assert ours.last_run == CPU


@ANYWHERE
@pytest.mark.parametrize(("mode", "words"), IN_TORCH, ids=str)
def test_generate_in_torch(mode: dict[str, Any], words: str) -> None:
    ours, theirs = pair()
    for model in (ours, theirs):
        model.set_attn_implementation("eager")
    generate(ours, **mode)
    assert ours.last_run.runner == "torch"
    with pytest.raises(NotAcceleratedError, match=rf"{words}.*strict=True"):
        generate(hf.accelerate(ours, strict=True), **mode)
    generate(hf.restore(ours), **mode)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", [*HEADS, "GPT2DoubleHeadsModel"])
def test_strict(kind: str) -> None:
    ours, theirs = pair(kind)
    ids = texts()[:, None] if kind == "GPT2DoubleHeadsModel" else texts()
    hf.accelerate(ours, num_threads=1, strict=True)
    with torch.no_grad():
        want = ours(ids)[0]
        assert ours.last_run == CPU
        for twin in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
            close(twin(ids)[0], want)
            with torch.enable_grad(), pytest.raises(NotAcceleratedError, match="gradients"):
                twin(ids)
        ours.train()
        with pytest.raises(NotAcceleratedError, match="set; call model"):
            ours(ids)
        close(ours.eval()(ids)[0], want)
        hf.restore(ours)
        close(ours(ids)[0], theirs(ids)[0], 0)


def test_a_text_that_was_refused_goes_on() -> None:
    ours, theirs = pair()
    hf.accelerate(ours, num_threads=1, strict=True)
    with torch.no_grad():
        cache = cache_of(ours(texts(), use_cache=True))
        last = texts()[:, -1:]
        with pytest.raises(NotAcceleratedError, match="output_hidden_states"):
            ours(last, **{CACHE: cache}, output_hidden_states=True)
        found = ours(last, **{CACHE: cache}).logits
        close(found, theirs(torch.cat([texts(), last], 1)).logits[:, -1:])


@pytest.mark.parametrize("kind", [*HEADS, "GPT2DoubleHeadsModel"])
def test_options_of_from_pretrained(kind: str, tmp_path: Path) -> None:
    make(kind).save_pretrained(tmp_path)
    ours = getattr(hf, kind)
    ids = texts()[:, None] if kind == "GPT2DoubleHeadsModel" else texts()
    with torch.no_grad():
        found = ours.from_pretrained(tmp_path, quantization="int8", num_threads=1, strict=True)
        want = hf.accelerate(ours.from_pretrained(tmp_path), quantization="int8", num_threads=1)
        assert torch.equal(found(ids)[0], want(ids)[0])
        assert not torch.equal(found(ids)[0], ours.from_pretrained(tmp_path)(ids)[0])
    with pytest.raises(NotAcceleratedError):
        found(ids)
    model, told = ours.from_pretrained(tmp_path, quantization="int4", output_loading_info=True)
    assert isinstance(model, ours)
    assert not told["missing_keys"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"quantization": "int5"}, "quantization = 'int5' is not known"),
        ({"device": "tpu"}, "device = 'tpu' is not known"),
        ({"num_threads": 0}, "num_threads=0"),
        ({"strict": "yes"}, "strict = 'yes' is not known; use True or False"),
    ],
    ids=str,
)
def test_options_are_looked_at_before_anything_is_loaded(
    options: dict[str, Any], words: str
) -> None:
    with pytest.raises(OptionError, match=words):
        hf.GPT2LMHeadModel.from_pretrained("no/such-folder", **options)
    with pytest.raises(OptionError, match=words):
        hf.accelerate(make(), **options)


def test_names_of_options_are_none_of_transformers() -> None:
    names = {"quantization", "num_threads", "strict", "device"}
    kind: Any = transformers.PreTrainedModel
    source = inspect.getsource(kind.from_pretrained)
    assert not names & set(inspect.signature(kind.from_pretrained).parameters)
    assert not [name for name in names if f'"{name}"' in source]
    assert not names & set(transformers.GPT2Config().to_dict())
