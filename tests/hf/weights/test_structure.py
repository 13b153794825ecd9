"""Models that are taken apart and put together differently, after or before acceleration."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable
from typing import Any

import pytest
from torch.nn.utils import parametrize, prune

from gpt2fast.errors import UnsupportedError
from support.hf_pair import (
    ANYWHERE,
    ON_THE_RUNNER,
    close,
    hf,
    make,
    pair,
    seeded,
    texts,
    torch,
    transformers,
)


class Adapter(torch.nn.Module):
    """A layer with a narrow one beside it, as adapters are."""

    def __init__(self, base: Any) -> None:
        super().__init__()
        self.base, rows = base, base.weight.shape
        draws = torch.Generator().manual_seed(5)
        self.down = torch.nn.Parameter(torch.randn(rows[0], 2, generator=draws))
        self.up = torch.nn.Parameter(torch.randn(2, rows[1], generator=draws) * 0.1)

    def forward(self, values: Any) -> Any:
        return self.base(values) + values @ self.down @ self.up


class Louder(transformers.pytorch_utils.Conv1D):
    """A layer that has the parameters of the one whose place it takes, and another result."""

    def forward(self, values: Any) -> Any:
        return 2 * super().forward(values)


class Half(torch.nn.Module):
    def forward(self, weight: Any) -> Any:
        return weight / 2


def louder(model: Any) -> None:
    model.transformer.h[0].mlp.c_proj.__class__ = Louder


def patched(model: Any) -> None:
    module = model.transformer.h[1].mlp
    plain = module.forward
    module.forward = types.MethodType(lambda _, values: plain(values) * 0.5, module)


def with_bias(model: Any) -> None:
    head = torch.nn.Linear(48, 211)
    head.weight = model.lm_head.weight
    head.bias = torch.nn.Parameter(torch.linspace(-3, 3, 211))
    model.lm_head = head


def inside(path: str, make_module: Callable[[Any], Any]) -> Callable[[Any], None]:
    """Puts another module in the place of the one at ``path``."""

    def change(model: Any) -> None:
        parent, _, name = path.rpartition(".")
        old = model.get_submodule(path)
        setattr(model.get_submodule(parent), name, make_module(old))

    return change


CHANGES: dict[str, Callable[[Any], Any]] = {
    "an adapter": inside("transformer.h.0.attn.c_attn", Adapter),
    "a tail at the head": inside("lm_head", lambda old: torch.nn.Sequential(old, torch.nn.Tanh())),
    "another activation": inside("transformer.h.1.mlp.act", lambda old: torch.nn.ReLU()),
    "no last norm": inside("transformer.ln_f", lambda old: torch.nn.Identity()),
    "no block": inside("transformer.h.0.mlp", lambda old: torch.nn.Identity()),
    "a norm without bias": inside(
        "transformer.ln_f", lambda old: torch.nn.LayerNorm(48, eps=0.5, bias=False)
    ),
    "a layer's result": louder,
    "a method": patched,
    "a bias of the head": with_bias,
    "parametrized": lambda model: parametrize.register_parametrization(
        model.transformer.h[0].mlp.c_fc, "weight", Half()
    ),
    "pruned": lambda model: prune.l1_unstructured(model.transformer.h[0].mlp.c_fc, "weight", 0.5),
    "heads pruned": lambda model: model.prune_heads({0: [1]}),
    "epsilon": lambda model: setattr(model.transformer.ln_f, "eps", 2.0),
    "buffers": lambda model: model.register_buffer("more", torch.ones(3)),
}  # fmt: skip


@ANYWHERE
@pytest.mark.parametrize("order", ["after a call", "after", "before"])
@pytest.mark.parametrize("name", CHANGES)
@torch.no_grad()
def test_changes_of_modules_count(name: str, order: str) -> None:
    """Whether they come before acceleration, after it, or after a first call."""
    if name == "heads pruned" and not hasattr(transformers.GPT2Model, "_prune_heads"):
        pytest.skip("the installed transformers prunes no heads")
    if name == "heads pruned" and order == "before":
        model = make()
        model.prune_heads({0: [1]})
        with pytest.raises(UnsupportedError, match="pruned_heads"):
            hf.accelerate(model)
        return
    change = CHANGES[name]
    ours, theirs = pair()
    if order == "before":
        hf.restore(ours)
    elif order == "after a call":
        ours(texts())
    plain = theirs(texts()).logits
    for model in (ours, theirs):
        change(model)
    if order == "before":
        hf.accelerate(ours, num_threads=1)
    want = theirs(texts()).logits
    assert name == "buffers" or not torch.allclose(want, plain, atol=1e-3)
    close(ours(texts()).logits, want)
    given = {"attention_mask": torch.ones_like(texts()), "max_new_tokens": 5}
    assert torch.equal(ours.generate(texts(), **given), theirs.generate(texts(), **given))


@ANYWHERE
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@torch.no_grad()
def test_weights_that_are_no_numbers(value: float) -> None:
    """Training went astray: the results say so, as transformers' do."""
    ours, theirs = pair()
    ours(texts())
    for model in (ours, theirs):
        model.transformer.h[1].mlp.c_fc.weight[5, 5] = value
    want = theirs(texts(), labels=texts())
    assert want.loss.isnan()
    found = ours(texts(), labels=texts())
    close(found.loss, want.loss)
    close(found.logits, want.logits)


@ANYWHERE
@torch.no_grad()
def test_dynamic_quantization_by_torch() -> None:
    """Of the head, the one layer of a kind that it takes."""
    models = []
    for model in pair(tie_word_embeddings=False):
        quantize = torch.ao.quantization.quantize_dynamic
        models.append(quantize(model, {torch.nn.Linear}, dtype=torch.qint8))
    ours, theirs = models
    want = theirs(texts()).logits
    assert not torch.allclose(want, make(tie_word_embeddings=False)(texts()).logits, atol=1e-4)
    close(ours(texts()).logits, want)


@ANYWHERE
@torch.no_grad()
def test_cross_attention() -> None:
    """Transformers has it; ``accelerate`` refuses such a model, our class takes it."""
    theirs = make(add_cross_attention=True)
    with pytest.raises(UnsupportedError, match="cross-attention"):
        hf.accelerate(theirs)
    ours = hf.GPT2LMHeadModel(theirs.config).eval()
    ours.load_state_dict(theirs.state_dict())
    states = seeded(lambda: torch.randn(3, 5, 48))
    for given in ({}, {"encoder_hidden_states": states}):
        close(ours(texts(), **given).logits, theirs(texts(), **given).logits)
    given = {"encoder_hidden_states": states, "max_new_tokens": 4, "eos_token_id": None}
    given |= {"attention_mask": torch.ones_like(texts()), "pad_token_id": 1}
    assert torch.equal(ours.generate(texts(), **given), theirs.generate(texts(), **given))


def own_attention(model: Any, name: str = "doubled") -> None:
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    def attend(module: Any, query: Any, key: Any, value: Any, mask: Any, **more: Any) -> Any:
        return sdpa_attention_forward(module, query, key, 2 * value, mask, **more)

    transformers.AttentionInterface.register(name, attend)
    model.set_attn_implementation(name)


def every_word(model: Any) -> None:
    """Tokens see those behind them: transformers 5 asks the config."""
    model.config.is_causal = False


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (own_attention, "the attention is 'doubled'"),
        (lambda model: own_attention(model, "sdpa_doubled"), "the attention is 'sdpa_doubled'"),
        (every_word, "is_causal = False"),
        (lambda model: setattr(model.transformer.h[1].attn, "scaling", 2.0), "scaling = 2.0"),
        (
            lambda model: setattr(model.transformer.h[1].attn, "scale_attn_weights", False),
            "scale_attn_weights = False",
        ),
    ],
)
@pytest.mark.parametrize("called", [False, True])
@torch.no_grad()
def test_another_attention(change: Callable[[Any], Any], words: str, called: bool) -> None:
    if "scaling" in words and not hasattr(make().transformer.h[1].attn, "scaling"):
        pytest.skip("the installed transformers has no such field")
    ours, theirs = pair()
    if called:
        ours(texts())
    for model in (ours, theirs):
        change(model)
    with pytest.warns(UserWarning, match=words):
        close(ours(texts()).logits, theirs(texts()).logits)


@pytest.mark.parametrize("wrapped", [False, True])
@torch.no_grad()
def test_a_class_that_is_patched(monkeypatch: pytest.MonkeyPatch, wrapped: bool) -> None:
    """As tools do that replace kernels or look at values."""
    from transformers.models.gpt2.modeling_gpt2 import GPT2MLP

    ours, theirs = pair()
    plain = theirs(texts()).logits
    close(ours(texts()).logits, plain)
    before = GPT2MLP.forward

    def half(self: Any, states: Any) -> Any:
        return 0.5 * before(self, states)

    monkeypatch.setattr(GPT2MLP, "forward", functools.wraps(before)(half) if wrapped else half)
    want = theirs(texts()).logits
    assert not torch.allclose(want, plain, atol=1e-3)
    with pytest.warns(UserWarning, match="mlp has a forward of its own"):
        close(ours(texts()).logits, want)
    monkeypatch.undo()
    close(ours(texts()).logits, plain)


@ON_THE_RUNNER
@torch.no_grad()
def test_fields_of_one_s_own_in_the_config_say_nothing(recwarn: Any) -> None:
    ours, theirs = pair(my_field=4)
    close(ours(texts()).logits, theirs(texts()).logits)
    assert not any("my_field" in str(each.message) for each in recwarn)


@torch.no_grad()
def test_an_attention_under_the_name_of_one_of_transformers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    known = transformers.AttentionInterface._global_mapping
    monkeypatch.setitem(known, "sdpa", known["sdpa"])  # put back in the end
    ours, theirs = pair()
    for model in (ours, theirs):
        own_attention(model, "sdpa")
    with pytest.warns(UserWarning, match="the attention is 'sdpa'"):
        close(ours(texts()).logits, theirs(texts()).logits)
