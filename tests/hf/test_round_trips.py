"""Saved, loaded, copied, pickled, pushed: an accelerated model remains one of transformers'."""

from __future__ import annotations

import copy
import inspect
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest

from support.hf_pair import (
    HEADS,
    ON_THE_RUNNER,
    close,
    hf,
    make,
    pair,
    same,
    texts,
    torch,
    transformers,
)

ALL = [*HEADS, "GPT2DoubleHeadsModel"]


@ON_THE_RUNNER
@torch.no_grad()
def test_round_trips(tmp_path: Path) -> None:
    """Saved, loaded by one line's change, copied, pickled, accelerated and restored."""
    ours, theirs = pair()
    ids = texts()
    want = theirs(ids).logits
    ours.save_pretrained(tmp_path)
    loaded = hf.GPT2LMHeadModel.from_pretrained(tmp_path).eval()
    assert isinstance(loaded, transformers.GPT2LMHeadModel)
    assert loaded.config.architectures == ["GPT2LMHeadModel"]
    back = transformers.GPT2LMHeadModel.from_pretrained(tmp_path).eval()
    for model in (loaded, back, copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        close(model(ids).logits, want)
    restored = hf.restore(ours)
    assert restored is ours
    assert type(ours) is transformers.GPT2LMHeadModel
    assert type(ours.transformer) is transformers.GPT2Model
    assert torch.equal(ours(ids).logits, want)


def through_torch(model: Any, path: Path) -> Any:
    torch.save(model, path / "model.pt")
    return torch.load(path / "model.pt", weights_only=False)


def through_a_state(model: Any, path: Path) -> Any:
    torch.save(model.state_dict(), path / "state.pt")
    found = getattr(hf, type(model).__name__)(model.config).eval()
    found.load_state_dict(torch.load(path / "state.pt"))
    return found


def through_a_folder(model: Any, path: Path) -> Any:
    model.save_pretrained(path)
    return getattr(hf, type(model).__name__).from_pretrained(path).eval()


def in_pieces(model: Any, path: Path) -> Any:
    model.save_pretrained(path, max_shard_size="20KB")
    assert len(list(path.glob("*.safetensors"))) > 2
    return getattr(hf, type(model).__name__).from_pretrained(path).eval()


COPIES: dict[str, Callable[[Any, Path], Any]] = {
    "deepcopy": lambda model, path: copy.deepcopy(model),
    "pickle": lambda model, path: pickle.loads(pickle.dumps(model)),
    "old pickle": lambda model, path: pickle.loads(pickle.dumps(model, protocol=2)),
    "torch.save": through_torch,
    "state": through_a_state,
    "folder": through_a_folder,
    "pieces": in_pieces,
}


@ON_THE_RUNNER
@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("copier", COPIES.values(), ids=COPIES)
@torch.no_grad()
def test_copies(copier: Callable[[Any, Path], Any], kind: str, tmp_path: Path) -> None:
    """Of each head, after a first call; a copy is accelerated, and its weights are its own."""
    ours, theirs = pair(kind)
    ids = texts()[None] if "Double" in kind else texts()
    want = theirs(ids)
    ours(ids)
    found = copier(ours, tmp_path)
    assert type(found) is type(ours)
    assert type(found.base_model) is hf.GPT2Model
    same(found(ids), want)
    for each in found.parameters():
        each.mul_(0.5)
    same(ours(ids), want)
    for each in theirs.parameters():
        each.mul_(0.5)
    same(found(ids), theirs(ids))


@ON_THE_RUNNER
@torch.no_grad()
def test_options_go_with_copies(tmp_path: Path) -> None:
    """Integers of the original are integers of its copies; a folder has the weights alone."""
    ours = hf.accelerate(make(), quantization="int4", num_threads=1)
    exact, rounded = make()(texts()).logits, ours(texts()).logits
    for name in ("deepcopy", "pickle", "torch.save"):
        close(COPIES[name](ours, tmp_path)(texts()).logits, rounded)
    close(COPIES["folder"](ours, tmp_path)(texts()).logits, exact)
    plain = hf.accelerate(ours, num_threads=1)
    assert plain is ours
    close(plain(texts()).logits, exact)


@ON_THE_RUNNER
@pytest.mark.parametrize("kind", ALL)
@torch.no_grad()
def test_folders_are_the_same(kind: str, tmp_path: Path) -> None:
    """Byte for byte; Auto classes load them."""
    for name, model in zip(("ours", "theirs"), pair(kind), strict=True):
        model(texts()[None] if "Double" in kind else texts())
        model.save_pretrained(tmp_path / name)
    names = sorted(path.name for path in (tmp_path / "theirs").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "ours").iterdir())
    for name in names:
        assert (tmp_path / "ours" / name).read_bytes() == (tmp_path / "theirs" / name).read_bytes()
    auto = {
        "GPT2Model": transformers.AutoModel,
        "GPT2LMHeadModel": transformers.AutoModelForCausalLM,
        "GPT2ForSequenceClassification": transformers.AutoModelForSequenceClassification,
        "GPT2ForTokenClassification": transformers.AutoModelForTokenClassification,
        "GPT2ForQuestionAnswering": transformers.AutoModelForQuestionAnswering,
    }
    if kind in auto:
        loaded = auto[kind].from_pretrained(tmp_path / "ours")
        assert type(loaded) is getattr(transformers, kind)
        same(hf.accelerate(loaded.eval(), num_threads=1)(texts()), pair(kind)[1](texts()))


@ON_THE_RUNNER
@torch.no_grad()
def test_loading_as_transformers_loads(tmp_path: Path) -> None:
    """Onto a device, for another head, with a report of what was missing."""
    theirs = make()
    theirs.save_pretrained(tmp_path)
    ours, report = hf.GPT2LMHeadModel.from_pretrained(
        tmp_path, device_map="cpu", output_loading_info=True, attn_implementation="sdpa"
    )
    assert not ours.training
    assert not set(report["missing_keys"]) - {"lm_head.weight"}
    close(ours(texts()).logits, theirs(texts()).logits)
    network = hf.GPT2Model.from_pretrained(tmp_path)
    close(network(texts())[0], theirs.transformer(texts())[0])
    number = hf.GPT2ForSequenceClassification.from_pretrained(tmp_path, num_labels=7)
    assert number(texts()).logits.shape == (3, 7)
    config = transformers.GPT2Config.from_pretrained(tmp_path)
    drawn = hf.GPT2LMHeadModel._from_config(config).eval()
    assert drawn(texts()).logits.shape == (3, 12, 211)


@pytest.mark.parametrize("kind", ALL)
def test_what_a_model_says_of_itself(kind: str) -> None:
    ours, theirs = pair(kind)
    assert isinstance(ours, getattr(transformers, kind))
    assert isinstance(ours, transformers.GPT2PreTrainedModel)
    assert isinstance(ours, transformers.GenerationMixin) == isinstance(
        theirs, transformers.GenerationMixin
    )
    assert type(ours).__name__ == kind
    assert inspect.signature(ours.forward) == inspect.signature(theirs.forward)
    assert repr(ours) == repr(theirs)
    for name in (
        "main_input_name",
        "base_model_prefix",
        "dtype",
        "device",
        "training",
        "framework",
    ):
        assert getattr(ours, name, None) == getattr(theirs, name, None)
    assert ours.can_generate() == theirs.can_generate()
    assert ours.num_parameters() == theirs.num_parameters()
    assert ours.get_memory_footprint() == theirs.get_memory_footprint()
    assert ours.config.to_dict() == theirs.config.to_dict()
    assert [name for name, _ in ours.named_modules()] == [
        name for name, _ in theirs.named_modules()
    ]
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert ours.base_model is (ours if kind == "GPT2Model" else ours.transformer)
    assert ours.get_input_embeddings() is ours.base_model.wte
    for name, each in ours.state_dict().items():
        assert torch.equal(each, theirs.state_dict()[name])
    if ours.can_generate():
        config = ours.generation_config.to_dict()
        assert config == theirs.generation_config.to_dict()


def test_push_to_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of it but the network."""
    pushed: list[Any] = []

    def create_repo(*args: Any, **kwargs: Any) -> Any:
        return SimpleNamespace(repo_id="me/model", url="https://hub/me/model")

    def create_commit(*args: Any, operations: Any, **kwargs: Any) -> str:
        pushed.append(
            {each.path_in_repo: Path(each.path_or_fileobj).read_bytes() for each in operations}
        )
        return kwargs["commit_message"]

    card = huggingface_hub.ModelCard("A card.")
    monkeypatch.setattr(huggingface_hub.ModelCard, "load", lambda *args, **kwargs: card)
    for place in (huggingface_hub.HfApi, transformers.utils.hub):
        monkeypatch.setattr(place, "create_repo", create_repo, raising=False)
        monkeypatch.setattr(place, "create_commit", create_commit, raising=False)
    messages = [model.push_to_hub("me/model", tags=["fast"]) for model in pair()]
    assert messages == ["Upload model"] * 2
    assert pushed[0] == pushed[1]
    assert {"config.json", "model.safetensors"} <= set(pushed[0])
    assert json.loads(pushed[0]["config.json"])["architectures"] == ["GPT2LMHeadModel"]


@pytest.mark.parametrize("kind", HEADS)
def test_first_weights_are_those_of_transformers(kind: str) -> None:
    """With one seed, and the generator stands where it would."""
    found = []
    for classes in (hf, transformers):
        torch.manual_seed(5)
        model = getattr(classes, kind)(make().config)
        found.append((model.state_dict(), torch.rand(3)))
    assert all(map(torch.equal, found[0][0].values(), found[1][0].values()))
    assert torch.equal(found[0][1], found[1][1])


@ON_THE_RUNNER
@torch.no_grad()
def test_a_config_for_torchscript() -> None:
    """In transformers 4.57 it asks for tuples."""
    ours, theirs = pair(torchscript=True)
    assert type(ours(texts())) is type(theirs(texts()))


@pytest.mark.parametrize("given", [(), ({"n_layer": 1},), (1, 2)])
def test_what_is_no_config_is_refused_as_by_transformers(given: Any) -> None:
    found = []
    for classes in (hf, transformers):
        with pytest.raises((TypeError, ValueError)) as info:
            classes.GPT2LMHeadModel(*given)
        found.append((info.type, str(info.value)))
    assert found[0] == found[1]


def test_the_name_of_the_module_is_all_that_changes() -> None:
    for name in ("GPT2Config", "GPT2PreTrainedModel", "GPT2Tokenizer", "GPT2TokenizerFast"):
        assert getattr(hf, name) is getattr(transformers, name)
