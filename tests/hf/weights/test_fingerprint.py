"""Weights that change under an accelerated model: the next text runs with the new ones."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gpt2fast.runners.cpu import CpuRunner
from support.hf_pair import (
    ANYWHERE,
    ON_THE_RUNNER,
    close,
    hf,
    make,
    pair,
    same_texts,
    seeded,
    texts,
    torch,
)


@ON_THE_RUNNER
@torch.no_grad()
def test_weights_that_change_are_packed_again() -> None:
    ours, theirs = pair()
    ids = texts()
    before = ours(ids).logits
    for model in (ours, theirs):
        model.transformer.h[0].mlp.c_fc.weight.mul_(1.5)
    assert not torch.equal(ours(ids).logits, before)
    close(ours(ids).logits, theirs(ids).logits)
    other = make(n_inner=192)
    torch.nn.init.normal_(other.transformer.wpe.weight, std=0.3)
    for model in (ours, theirs):
        model.load_state_dict(other.state_dict())
        model.resize_token_embeddings(220)
        model.tie_weights()
    theirs.load_state_dict(ours.state_dict())
    close(ours(ids).logits, theirs(ids).logits)
    assert ours(ids).logits.shape[-1] == 220


def scaled(model: Any) -> dict[str, Any]:
    return {name: value * 1.3 for name, value in model.state_dict().items()}


def in_place(model: Any, change: Callable[[Any], Any]) -> None:
    for each in model.parameters():
        change(each)


CHANGES: dict[str, Callable[[Any], Any]] = {
    "in place": lambda model: in_place(model, lambda each: each.mul_(1.3)),
    "detached": lambda model: in_place(model, lambda each: each.detach().mul_(1.3)),
    "data": lambda model: in_place(model, lambda each: each.data.mul_(1.3)),
    "data replaced": lambda model: in_place(
        model, lambda each: setattr(each, "data", each.data * 1.3)
    ),
    "one bias": lambda model: model.transformer.ln_f.bias.add_(0.5),
    "one position": lambda model: model.transformer.wpe.weight[3].add_(0.5),
    "one token": lambda model: model.transformer.wte.weight[int(texts()[0, 0])].add_(0.5),
    "data of one token": lambda model: model.transformer.wte.weight.data[int(texts()[0, 0])].add_(
        0.5
    ),
    "state": lambda model: model.load_state_dict(scaled(model)),
    "state assigned": lambda model: (
        model.load_state_dict(scaled(model), assign=True),
        model.tie_weights(),
    ),
    "vector": lambda model: torch.nn.utils.vector_to_parameters(
        torch.nn.utils.parameters_to_vector(model.parameters()) * 1.3, model.parameters()
    ),
    "foreach": lambda model: torch._foreach_mul_(list(model.parameters()), 1.3),
    "drawn again": lambda model: in_place(
        model, lambda each: torch.nn.init.normal_(each, std=0.1, generator=seeds())
    ),
    "clipped": lambda model: in_place(model, lambda each: each.clamp_(-0.1, 0.1)),
    "a parameter": lambda model: setattr(
        model.transformer.ln_f, "weight", torch.nn.Parameter(torch.linspace(-1, 1, 48))
    ),
    "embeddings": lambda model: model.set_input_embeddings(table()),
    "the head": lambda model: model.set_output_embeddings(layer()),
    "the network": lambda model: setattr(
        model, "transformer", make(layer_norm_epsilon=0.01).transformer
    ),
    "a layer less": lambda model: setattr(model.transformer, "h", model.transformer.h[:1]),
    "layers turned round": lambda model: setattr(model.transformer, "h", model.transformer.h[::-1]),
}


def seeds() -> Any:
    return torch.Generator().manual_seed(5)


def table() -> Any:
    found = torch.nn.Embedding(211, 48)
    torch.nn.init.normal_(found.weight, std=0.3, generator=seeds())
    return found


def layer() -> Any:
    found = torch.nn.Linear(48, 211, bias=False)
    torch.nn.init.normal_(found.weight, std=0.3, generator=seeds())
    return found


@ANYWHERE
@pytest.mark.parametrize("held", [False, True], ids=["", "the old ones are held"])
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@torch.no_grad()
def test_changes_are_noticed(change: Callable[[Any], Any], held: bool) -> None:
    """By ``forward`` and ``generate``, also where somebody holds on to what was replaced."""
    ours, theirs = pair()
    before = ours(texts()).logits
    old = [(*model.modules(), *model.parameters()) for model in (ours, theirs)] if held else []
    for model in (ours, theirs):
        change(model)
    want = theirs(texts()).logits
    assert not torch.allclose(want, before)
    found = ours.generate(texts(), attention_mask=torch.ones_like(texts()), max_new_tokens=6)
    close(ours(texts()).logits, want)
    want = theirs.generate(texts(), attention_mask=torch.ones_like(texts()), max_new_tokens=6)
    assert torch.equal(found, want)
    del old


@ON_THE_RUNNER
@torch.no_grad()
def test_weights_that_change_while_they_are_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    """By another thread, behind what has been packed of them: the next call has the new ones."""
    ours, theirs = pair()
    changes = [lambda: [each.mul_(1.3) for each in ours.parameters()]]

    def make_runner(*args: Any, **kwargs: Any) -> Any:
        runner = CpuRunner(*args, **kwargs)
        if changes:
            changes.pop()()
        return runner

    monkeypatch.setattr("gpt2fast.hf.backend.make_runner.CpuRunner", make_runner)
    ours(texts())
    assert not changes
    for each in theirs.parameters():
        each.mul_(1.3)
    close(ours(texts()).logits, theirs(texts()).logits)


@ANYWHERE
@torch.no_grad()
def test_weights_that_are_lent_for_one_call() -> None:
    ours, theirs = pair()
    other = {name: each * 1.3 for name, each in theirs.named_parameters()}
    ours(texts())
    for weights in (other, {}, other):
        found, want = (
            torch.func.functional_call(model, weights, (texts(),)).logits
            for model in (ours, theirs)
        )
        close(found, want)


@ON_THE_RUNNER
@torch.no_grad()
def test_rounded_weights_change_too() -> None:
    ours = hf.accelerate(make(), quantization="int8", num_threads=1)
    before = ours(texts()).logits
    ours.load_state_dict(scaled(ours))
    assert not torch.allclose(ours(texts()).logits, before, atol=0.1)


@ANYWHERE
@torch.no_grad()
def test_a_vocabulary_that_grows_and_shrinks() -> None:
    ours, theirs = pair()
    for size in (230, 211, 64, 65):
        for model in (ours, theirs):
            seeded(lambda m=model, s=size: m.resize_token_embeddings(s, mean_resizing=False))
            assert model.config.vocab_size == size
        ids = texts(3, 12, min(size, 211))
        want = same_texts(ours, theirs, ids, max_new_tokens=5, eos_token_id=None, pad_token_id=0)
        assert want.shape == (3, 17)
        found = ours(ids).logits
        assert found.shape == (3, 12, size)
        close(found, theirs(ids).logits)


@ON_THE_RUNNER
@pytest.mark.parametrize("within", ["all", "the model"])
def test_weights_that_were_made_in_inference_mode(within: str) -> None:
    """They have no versions; what is written to them is seen by their values."""
    with torch.inference_mode():
        theirs = make()
        ours = hf.accelerate(make(), num_threads=1)
        if within == "all":
            close(ours(texts()).logits, theirs(texts()).logits)
            for model in (ours, theirs):
                model.transformer.ln_f.weight.mul_(2)
            close(ours(texts()).logits, theirs(texts()).logits)
    with torch.no_grad():
        close(ours(texts()).logits, theirs(texts()).logits)


HOLDERS: dict[str, Callable[[Any], Any]] = {
    "state_dict": lambda model: list(model.state_dict().values()),
    "data": lambda model: [model.transformer.wte.weight.data],
    "numpy": lambda model: [model.transformer.wte.weight.detach().numpy()],
    "another parameter": lambda model: [torch.nn.Parameter(model.transformer.wte.weight.data)],
}


@ON_THE_RUNNER
@pytest.mark.parametrize("hold", HOLDERS.values(), ids=HOLDERS)
@torch.no_grad()
def test_who_holds_the_weights_goes_on_holding_them(hold: Callable[[Any], Any]) -> None:
    """A weight whose memory somebody else has stays where it is."""
    large = {"vocab_size": 900, "n_embd": 96}
    ours, theirs = pair(**large)
    held = [hold(model) for model in (ours, theirs)]
    ours(texts())
    for each in zip(*held, strict=True):
        for values in each:
            values[...] = values * 0.5
    close(ours(texts()).logits, theirs(texts()).logits)
    assert ours.transformer.wte.weight.data_ptr() == ours.lm_head.weight.data_ptr()


@ANYWHERE
@torch.no_grad()
def test_weights_on_the_disk(tmp_path: Path) -> None:
    """accelerate's device_map leaves them on "meta" between two calls."""
    pytest.importorskip("accelerate")
    theirs = make()
    theirs.save_pretrained(tmp_path / "model")
    places = {f"transformer.{name}": "cpu" for name in ("wte", "wpe", "h.0", "ln_f")}
    places |= {"lm_head": "cpu", "transformer.h.1": "disk"}
    ours = hf.GPT2LMHeadModel.from_pretrained(
        tmp_path / "model", device_map=places, offload_folder=tmp_path / "disk"
    )
    close(ours(texts()).logits, theirs(texts()).logits)


@pytest.mark.filterwarnings("error::ResourceWarning")
@torch.no_grad()
def test_no_file_stays_open(recwarn: Any) -> None:
    ours = pair(vocab_size=900, n_embd=96)[0]
    ours(texts())
    del ours
    gc.collect()
    assert not [each for each in recwarn if "unclosed" in str(each.message)]
