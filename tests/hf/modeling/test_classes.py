"""Classes that others derive from transformers' and from ours."""

from __future__ import annotations

import copy
import gc
import pickle
import typing
import weakref
from pathlib import Path
from typing import Any

import pytest

from gpt2fast.hf.modeling.classes import Accelerated
from support.hf_pair import (
    ANYWHERE,
    ENDS,
    HEADS,
    ON_THE_RUNNER,
    SIZES,
    cache_of,
    close,
    hf,
    left_padding,
    make,
    pair,
    same,
    same_texts,
    texts,
    torch,
    transformers,
)

RIGHT = left_padding(3, 12).flip(1)


class Plain(transformers.GPT2LMHeadModel):
    """Nothing of its own."""


class Louder(transformers.GPT2LMHeadModel):
    """Asks transformers, and doubles what it says."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        found = super().forward(*args, **kwargs)
        found.logits = 2 * found.logits
        return found


class Tagger(transformers.GPT2ForTokenClassification):
    """Nothing of its own."""


class Chooser(transformers.GPT2DoubleHeadsModel):
    """Nothing of its own."""


class Answerer(transformers.GPT2ForQuestionAnswering):
    """Nothing of its own."""


class Network(transformers.GPT2Model):
    """Nothing of its own."""


class LoudNetwork(transformers.GPT2Model):
    """Doubles the states."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        found = super().forward(*args, **kwargs)
        found.last_hidden_state = 2 * found.last_hidden_state
        return found


class Ours(hf.GPT2LMHeadModel):
    """Written for gpt2fast."""


@ON_THE_RUNNER
@pytest.mark.parametrize("kind", [Plain, Louder, Tagger, Chooser, Answerer, Network])
@torch.no_grad()
def test_they_run_on_the_runner(kind: type) -> None:
    ours, theirs = pair(kind)
    assert isinstance(ours, kind)
    assert isinstance(ours, Accelerated)
    ids = texts()[:, None].repeat(1, 2, 1) if kind is Chooser else texts()
    same(ours(ids), theirs(ids))


@ANYWHERE
@pytest.mark.parametrize("kind", [Plain, Louder, Tagger, Chooser, Answerer])
@torch.no_grad()
def test_losses_and_answers_at_padding(kind: type) -> None:
    ours, theirs = pair(kind)
    ids, mask = texts(), RIGHT
    if kind is Chooser:
        ids, mask = (each[:, None].repeat(1, 2, 1) for each in (ids, mask))
    labels = {} if kind is Answerer else {"labels": ids % 2 if kind is Tagger else ids}
    found, want = (model(ids, attention_mask=mask, **labels) for model in (ours, theirs))
    if kind in (Answerer, Chooser):
        same(found, want)
    else:
        close(found.loss, want.loss)


@ON_THE_RUNNER
@pytest.mark.parametrize("kind", [Plain, Louder])
@pytest.mark.parametrize("mode", [{}, {"do_sample": True, "top_k": 20}, {"num_beams": 3}], ids=str)
def test_they_generate(kind: type, mode: dict[str, Any]) -> None:
    ours, theirs = pair(kind)
    same_texts(ours, theirs, texts(), max_new_tokens=12, **mode)


def test_integers_are_used() -> None:
    ours, theirs = pair(Plain)
    ids, options = texts(), {"max_new_tokens": 24, "attention_mask": torch.ones_like(texts())}
    plain = hf.accelerate(make(), "int4", num_threads=1)
    plain.load_state_dict(theirs.state_dict())
    hf.accelerate(ours, "int4", num_threads=1)
    found, want, floats = (model.generate(ids, **options) for model in (ours, plain, theirs))
    assert torch.equal(found, want)
    assert not torch.equal(found, floats)


@ON_THE_RUNNER
@torch.no_grad()
def test_copies_pickles_and_files(tmp_path: Path) -> None:
    ours, theirs = pair(Plain)
    want = theirs(texts()).logits
    for each in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        assert type(each) is type(ours)
        close(each(texts()).logits, want)
    ours.save_pretrained(tmp_path)
    assert Plain.from_pretrained(tmp_path).config.architectures == ["Plain"]
    torch.save(ours, tmp_path / "whole.pt")
    close(torch.load(tmp_path / "whole.pt", weights_only=False)(texts()).logits, want)


@torch.no_grad()
def test_restoring() -> None:
    ours, theirs = pair(Plain)
    want = theirs(texts()).logits
    close(ours(texts()).logits, want)
    hf.restore(ours)
    assert type(ours) is Plain
    assert type(ours.transformer) is transformers.GPT2Model
    close(ours(texts()).logits, want, 0)
    assert not any(name.startswith("_gpt2fast") for name in ours.transformer.__dict__)


@torch.no_grad()
def test_restoring_what_was_written_for_us() -> None:
    ours = pair(Ours)[0]
    want = ours(texts()).logits
    hf.restore(ours)
    with pytest.warns(UserWarning, match="restore was called"):
        close(ours(texts()).logits, want)
    hf.accelerate(ours, num_threads=1)
    assert isinstance(cache_of(ours(texts())), hf.NativeCache)


@torch.no_grad()
def test_a_network_that_changes_its_states() -> None:
    theirs, ours = make(), make()
    for model in (theirs, ours):
        model.transformer.__class__ = LoudNetwork
    hf.accelerate(ours, num_threads=1)
    with pytest.warns(UserWarning, match="a forward of its own"):
        close(ours(texts()).logits, theirs(texts()).logits)


class Flavoured(transformers.GPT2LMHeadModel):
    """Wants to be told something by those derived from it, and lists them."""

    known: typing.ClassVar[dict[str, type]] = {}

    def __init_subclass__(cls, *, flavour: str, **more: Any) -> None:
        super().__init_subclass__(**more)
        Flavoured.known[flavour] = cls


class Sweet(Flavoured, flavour="sweet"):
    """Is listed."""


def _rebuild(config: Any, state: Any) -> Any:
    model = Reduces(config).eval()
    model.load_state_dict(state)
    return model


class Reduces(transformers.GPT2LMHeadModel):
    """Says itself how it is copied."""

    def __reduce__(self) -> Any:
        return _rebuild, (self.config, self.state_dict())


class GivesAll(transformers.GPT2Model):
    """Says itself what its state is."""

    def __getstate__(self) -> Any:
        return self.__dict__.copy()


class OwnConfig(transformers.GPT2Config):
    """As AutoModel.register wants it."""

    model_type = "my-gpt2"


class WithOwnConfig(transformers.GPT2LMHeadModel):
    config_class = OwnConfig


@ON_THE_RUNNER
@pytest.mark.parametrize("kind", [Sweet, Reduces, GivesAll])
@torch.no_grad()
def test_unusual_classes(kind: type) -> None:
    ours, theirs = pair(kind)
    want = theirs(texts())[0]
    close(ours(texts())[0], want)
    for each in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        assert isinstance(each, kind)
        close(each(texts())[0], want)
    assert Flavoured.known == {"sweet": Sweet}
    assert type(hf.restore(ours)) is kind


@ON_THE_RUNNER
@torch.no_grad()
def test_a_config_of_one_s_own() -> None:
    theirs = WithOwnConfig(OwnConfig(**SIZES, **ENDS)).eval()
    ours = hf.accelerate(copy.deepcopy(theirs), num_threads=1)
    close(ours(texts()).logits, theirs(texts()).logits)


@ON_THE_RUNNER
@torch.no_grad()
def test_a_network_alone_that_changes_its_states() -> None:
    ours, theirs = pair(LoudNetwork)
    close(ours(texts()).last_hidden_state, theirs(texts()).last_hidden_state)


def test_a_class_that_nobody_uses_goes() -> None:
    class Local(transformers.GPT2LMHeadModel):
        pass

    kind = weakref.ref(Local)
    model = hf.accelerate(pair(Local)[1], num_threads=1)
    assert isinstance(model, Local)
    del model, Local
    gc.collect()
    assert kind() is None


class Mixed(hf.GPT2LMHeadModel, Louder):
    """Has a class between ours and transformers' that overrides forward."""


class MixedFurther(Mixed):
    """Calls what it is derived from."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        found = super().forward(*args, **kwargs)
        found.logits = 3 * found.logits
        return found


class MixedNetwork(hf.GPT2Model, LoudNetwork):
    """The same of a network."""


@ON_THE_RUNNER
@pytest.mark.parametrize(("kind", "times"), [(Mixed, 2), (MixedFurther, 6)])
def test_a_class_between_ours_and_theirs(kind: type, times: int) -> None:
    theirs = make()
    ours = kind(theirs.config).eval()
    ours.load_state_dict(theirs.state_dict())
    with torch.no_grad():
        close(ours(texts()).logits, times * theirs(texts()).logits)
        assert ours.last_run.runner == "cpu"  # of the network inside
    loud = make(Louder)
    loud.load_state_dict(theirs.state_dict())
    for mode in ({}, {"num_beams": 2}):
        options = {"max_new_tokens": 8, "return_dict_in_generate": True, "output_logits": True}
        mask = torch.ones_like(texts())
        found, want = (
            model.generate(texts(), attention_mask=mask, **options, **mode).logits
            for model in (ours, loud)
        )
        close(found[0], times / 2 * want[0])


@ANYWHERE
@torch.no_grad()
def test_a_network_between_ours_and_theirs() -> None:
    theirs, ours = make(), make()
    alone = MixedNetwork(theirs.config).eval()
    alone.load_state_dict(theirs.transformer.state_dict())
    theirs.transformer.__class__ = LoudNetwork
    close(alone(texts()).last_hidden_state, theirs.transformer(texts()).last_hidden_state)
    ours.transformer.__class__ = MixedNetwork
    close(hf.accelerate(ours)(texts()).logits, theirs(texts()).logits)


@pytest.mark.parametrize("name", [*HEADS, "GPT2DoubleHeadsModel"])
def test_who_generates(name: str) -> None:
    """transformers looks for its mixin among the bases themselves."""
    ours, theirs = getattr(hf, name), getattr(transformers, name)
    mixin = transformers.GenerationMixin
    assert (mixin in ours.__bases__) == (mixin in theirs.__bases__)
    assert ours.can_generate() == theirs.can_generate()
    assert [each for each in ours.__mro__ if each in theirs.__mro__] == list(theirs.__mro__)
