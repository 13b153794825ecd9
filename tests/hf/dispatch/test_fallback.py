"""Calls that the runner cannot serve run in transformers, with its results, and say why."""

from __future__ import annotations

import warnings
from typing import Any

import pytest

from gpt2fast.errors import GPT2FastError, OptionError
from support.hf_pair import (
    ANYWHERE,
    CACHE,
    ON_THE_RUNNER,
    close,
    hf,
    make,
    pair,
    texts,
    torch,
    transformers,
)


@ON_THE_RUNNER
@pytest.mark.parametrize(
    "reason", ["train", "grad", "attentions", "hidden", "hook", "embeds", "own"]
)
def test_what_the_runner_cannot_do_runs_in_transformers_and_says_so_once(reason: str) -> None:
    ours, theirs = pair()
    ids, given = texts(), {}
    expected = {
        "train": "model.training is set",
        "grad": "gradients are wanted",
        "attentions": "output_attentions",
        "hidden": "output_hidden_states",
        "hook": "a module has hooks",
        "embeds": "inputs_embeds",
        "own": f"{CACHE} is a DynamicCache",
    }[reason]
    if reason == "train":
        for model in (ours, theirs):
            model.train()
            model.config.resid_pdrop = 0.0
            for each in model.modules():
                if isinstance(each, torch.nn.Dropout):
                    each.p = 0.0
    if reason == "hook":
        ours.transformer.h[1].mlp.register_forward_hook(lambda *_: None)
    given |= {"output_attentions": True} if reason == "attentions" else {}
    given |= {"output_hidden_states": True} if reason == "hidden" else {}
    if reason == "attentions":
        for model in (ours, theirs):
            model.set_attn_implementation("eager")
    names = {"input_ids": ids}
    with torch.set_grad_enabled(reason == "grad"):
        if reason == "embeds":
            names = {"inputs_embeds": theirs.transformer.wte(ids)}
        if reason == "own":
            given[CACHE] = transformers.DynamicCache()
        with pytest.warns(UserWarning, match=f"gpt2fast leaves .*{expected}"):
            found = ours(**names, **given)
        given.pop(CACHE, None)
        want = theirs(**names, **given)
        close(found.logits, want.logits)
        assert (found.hidden_states is None) == (want.hidden_states is None)
        ours(**names, **given)  # without a word
    assert found.logits.requires_grad == (reason == "grad")
    if reason in ("attentions", "hidden", "embeds", "own"):
        with torch.no_grad():
            close(ours(ids).logits, theirs(ids).logits)  # on the runner again


def notes(model: Any, kind: str) -> tuple[list[Any], Any]:
    """What a hook of a module inside is given, and its handle."""
    seen: list[Any] = []
    module = model.transformer.h[0].attn
    if kind == "forward":
        return seen, module.register_forward_hook(lambda _, args, out: seen.append(out[0].clone()))
    if kind == "before":
        return seen, module.register_forward_pre_hook(
            lambda _, args, kwargs: seen.append((*args, *kwargs.values())[0].clone()),
            with_kwargs=True,
        )
    return seen, torch.nn.modules.module.register_module_forward_hook(
        lambda each, args, out: seen.append(out.clone()) if each is model.transformer.ln_f else None
    )


@ANYWHERE
@pytest.mark.parametrize("kind", ["forward", "before", "of all modules"])
@pytest.mark.parametrize("call", ["forward", "generate"])
@torch.no_grad()
def test_hooks_are_called(call: str, kind: str) -> None:
    """In the middle of a model; taken away, the runner runs again."""
    results = []
    for model in pair():
        given = {"attention_mask": torch.ones_like(texts()), "max_new_tokens": 3}
        model(texts(), use_cache=True)
        seen, handle = notes(model, kind)
        if call == "forward":
            model(texts())
        else:
            model.generate(texts(), do_sample=False, **given)
        handle.remove()
        results.append(seen)
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message="gpt2fast leaves")
            model(texts()[:, :5])  # on the runner again
    assert len(results[1]) == (1 if call == "forward" else 3)
    for found, want in zip(*results, strict=True):
        close(found, want)


@ANYWHERE
@torch.no_grad()
def test_a_hook_of_the_model_itself() -> None:
    """It sees the call, and may change what it gives back, on the runner or not."""
    results = []
    for model in pair():
        handle = model.register_forward_hook(lambda _, args, out: out.logits * 2)
        results.append(model(texts()))
        handle.remove()
    close(*results)


@ON_THE_RUNNER
@torch.no_grad()
def test_a_device_of_torch() -> None:
    ours, theirs = make(), make()
    hf.accelerate(ours, device=torch.device("cpu"), num_threads=1)
    close(ours(texts()).logits, theirs(texts()).logits)


def test_other_models_and_options_are_refused() -> None:
    with pytest.raises(OptionError, match="'Linear' is none of transformers' GPT-2 classes"):
        hf.accelerate(torch.nn.Linear(2, 2))
    with pytest.raises(OptionError, match="quantization"):
        hf.accelerate(make(), quantization="int5")
    for call in (hf.accelerate, hf.restore):
        with pytest.raises(OptionError, match="GPT2LMHeadModel is a class; give a model, such as"):
            call(transformers.GPT2LMHeadModel)
        for thing in ("gpt2", None):
            with pytest.raises(OptionError, match=f"{thing!r} is not a model; give one of"):
                call(thing)


def test_restoring_what_was_never_accelerated() -> None:
    model = make()
    before = dict(model.__dict__)
    assert hf.restore(model) is model
    assert type(model) is transformers.GPT2LMHeadModel
    assert model.__dict__ == before


@torch.no_grad()
def test_a_model_without_memory() -> None:
    with torch.device("meta"):
        model = transformers.GPT2LMHeadModel(make().config).eval()
    hf.accelerate(model)
    ids = texts().to("meta")
    with pytest.warns(UserWarning, match="the model is on meta, where there is no runner"):
        assert model(ids, attention_mask=torch.ones_like(ids)).logits.is_meta
    model.load_state_dict(make().state_dict(), assign=True)
    model.tie_weights()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        close(model(texts()).logits, make()(texts()).logits)


@ON_THE_RUNNER
@torch.no_grad()
def test_integers() -> None:
    model = make()
    ids = texts()
    want = model(ids).logits
    for scheme, most in (("int8", 0.05), ("int4", 0.4)):
        found = hf.accelerate(model, quantization=scheme, num_threads=1)(ids).logits
        error = torch.linalg.norm(found - want) / torch.linalg.norm(want)
        assert 0 < error < most


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"quantization": "fp8"}, "fp8.* is not available on the cpu runner"),
        ({"num_threads": 0}, "num_threads=0: a number from 1"),
        ({"num_threads": "2"}, "num_threads='2': a number from 1"),
        ({"num_threads": 2.0}, "num_threads=2.0: a number from 1"),
        ({"device": "mps"}, "device = 'mps' is not known; use 'cpu', 'cuda'"),
        ({"device": 0}, "device = '0' is not known; use 'cpu', 'cuda'"),
        ({"device": torch.device("meta")}, "device = 'meta' is not known; use 'cpu', 'cuda'"),
    ],
    ids=str,
)
def test_options_that_cannot_be_are_refused_at_once(options: dict[str, Any], words: str) -> None:
    model = make()
    with pytest.raises(GPT2FastError, match=words):
        hf.accelerate(model, **options)
    assert type(model) is transformers.GPT2LMHeadModel
