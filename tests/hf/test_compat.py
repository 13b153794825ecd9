"""Releases of transformers: the one that is installed is accelerated, and of one that is not as
those that were tested somebody is warned."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
import warnings
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any

import pytest
from transformers import modeling_utils
from transformers.generation import utils

from gpt2fast.hf import compat
from gpt2fast.hf.modeling import models
from gpt2fast.runners.cpu import CpuRunner
from support.hf_pair import (
    ANYWHERE,
    CACHE,
    HEADS,
    NO_END,
    ON_THE_RUNNER,
    cache_of,
    hf,
    left_padding,
    or_skip,
    pair,
    same_outcome,
    same_texts,
    texts,
    torch,
    transformers,
)

ROOT = Path(__file__).parents[2]
GREEDY = {**NO_END, "max_new_tokens": 6, "do_sample": False}
OWN = transformers.LogitsProcessorList([lambda ids, scores: scores])


@dataclass
class Counts:
    """How often what was called: a step of the runner, ``forward`` of ours, and the network in
    torch."""

    steps: int = 0
    forwards: int = 0
    networks: int = 0


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> Counts:
    found = Counts()

    def spy(owner: Any, name: str, field: str) -> None:
        original = getattr(owner, name)

        @wraps(original)
        def counted(*args: Any, **kwargs: Any) -> Any:
            setattr(found, field, getattr(found, field) + 1)
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, name, counted)

    for step in ("step", "hidden_states"):
        spy(CpuRunner, step, "steps")
    spy(models, "run_forward", "forwards")
    spy(transformers.GPT2Model, "forward", "networks")
    return found


@ON_THE_RUNNER
@pytest.mark.parametrize(
    "mode",
    [
        {},
        {"do_sample": True, "top_k": 20, "top_p": 0.9},
        {"logits_processor": OWN},
        {"return_dict_in_generate": True, "output_scores": True},
        {"attention_mask": left_padding(3, 12)},
    ],
    ids=["greedy", "sampling", "own processor", "scores", "padding"],
)
def test_generate_runs_in_the_loop_over_the_runner(counts: Counts, mode: dict[str, Any]) -> None:
    """One step of the runner a token, and no ``forward`` between two tokens."""
    ours, _ = pair()
    ours.generate(texts(), **{**GREEDY, **mode})
    assert counts == Counts(steps=6)


@ON_THE_RUNNER
@pytest.mark.parametrize("mode", [{"num_beams": 3}, {"prompt_lookup_num_tokens": 3}], ids=str)
def test_other_ways_of_generate_run_over_the_runner(counts: Counts, mode: dict[str, Any]) -> None:
    ours, theirs = pair()
    or_skip(lambda: theirs.generate(texts(1), **{**GREEDY, **mode}))
    counts.networks = 0
    ours.generate(texts(1), **{**GREEDY, **mode})
    assert counts.steps == counts.forwards > 1
    assert counts.networks == 0


@ON_THE_RUNNER
@pytest.mark.parametrize("kind", HEADS)
@torch.no_grad()
def test_forward_runs_on_the_runner(counts: Counts, kind: str) -> None:
    ours, theirs = pair(kind)
    ours(texts())
    assert counts == Counts(steps=1, forwards=1)
    theirs(texts())
    assert counts.networks == 1  # which is how torch would be noticed


@ON_THE_RUNNER
@torch.no_grad()
def test_names_of_the_cache() -> None:
    ours, theirs = pair()
    assert compat.cache_argument() == CACHE
    names = list(theirs(texts(), use_cache=True))
    output = ours(texts(), use_cache=True)
    assert list(output) == names
    assert isinstance(cache_of(output), hf.NativeCache)
    assert list(ours.transformer(texts())) == list(theirs.transformer(texts()))


@ON_THE_RUNNER
@torch.no_grad()
@pytest.mark.skipif(CACHE == "past_key_values", reason="there it is the name")
def test_the_deprecated_name_of_the_cache() -> None:
    """Understood as long as transformers understands it, with a warning of the same class."""
    for model in pair():
        first = model(texts(), use_cache=True)
        step = texts(3, 1)
        want = model(step, **{CACHE: cache_of(first)}, logits_to_keep=1).logits
        cache_of(first).crop(-1)
        with pytest.warns(FutureWarning, match="`past_key_values` is deprecated"):
            found = model(step, past_key_values=cache_of(first), logits_to_keep=1).logits
        assert torch.equal(found, want)
        with pytest.warns(FutureWarning, match="past_key_values"):
            model(step, past_key_values=None, **{CACHE: cache_of(first)})


@pytest.mark.parametrize(
    ("annotations", "name"),
    [
        ({"input_ids": "Tensor", "past_key_values": "Cache"}, "past_key_values"),
        ({"past_key_values": "Cache", "cache": "Cache"}, "cache"),
        ({"input_ids": "Tensor", "kv": "Cache | None"}, "kv"),
        ({"input_ids": "Tensor"}, "cache"),
    ],
)
def test_a_name_of_the_cache_to_come_is_found(annotations: dict[str, str], name: str) -> None:
    assert compat._name_of_cache(annotations) == name


def test_this_release_is_as_those_that_were_tested() -> None:
    """Where this fails, ``generate`` of a new release is not accelerated: look at compat.py."""
    assert compat.generate_changes() == []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compat.warn_of_generate_changes()


def _move(monkeypatch: pytest.MonkeyPatch, old: str, new: str) -> None:
    """A method of ``generate``'s under another name, as in a release to come."""
    monkeypatch.setattr(utils.GenerationMixin, new, getattr(utils.GenerationMixin, old), False)
    monkeypatch.delattr(utils.GenerationMixin, old)
    mapping = {mode: new if name == old else name for mode, name in _MODES.items()}
    monkeypatch.setattr(utils, "GENERATION_MODES_MAPPING", mapping)


_MODES = dict(utils.GENERATION_MODES_MAPPING)


@pytest.mark.parametrize("method", ["_sample", "_beam_search"])
def test_a_loop_that_has_gone_is_told_once(monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    """Results stay right: transformers' loop runs over the runner."""
    ours, theirs = pair()
    _move(monkeypatch, method, "_decode")
    compat.warn_of_generate_changes.cache_clear()
    expected = rf"to transformers {transformers.__version__}.*`{method}` is gone"
    with pytest.warns(UserWarning, match=expected):
        hf.accelerate(ours, num_threads=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        hf.accelerate(ours, num_threads=1)
        beams = {"num_beams": 3} if method == "_beam_search" else {}
        same_texts(ours, theirs, texts(), **GREEDY, **beams)
    compat.warn_of_generate_changes.cache_clear()


RENAMED = {
    "_sample": "stopping_criteria",
    "_prepare_cache_for_generation": "model_kwargs",
    "_beam_search": "logits_processor",
}


@ANYWHERE
@pytest.mark.parametrize("method", RENAMED)
def test_a_method_with_other_arguments_is_told(
    monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """``generate`` gives one of them by another name. Results stay right."""
    ours, theirs = pair()
    old, new = RENAMED[method], "of_another_name"
    original, mine = (
        getattr(kind, method) for kind in (utils.GenerationMixin, models.GPT2LMHeadModel)
    )

    def theirs_renamed(self: Any, *args: Any, **given: Any) -> Any:
        return original(self, *args, **_swapped(given, new, old))

    def ours_called(self: Any, *args: Any, **given: Any) -> Any:
        return mine(self, *args, **_swapped(given, old, new))

    signature = inspect.signature(original)
    parameters = [
        each.replace(name=new) if each.name == old else each
        for each in signature.parameters.values()
    ]
    theirs_renamed.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    monkeypatch.setattr(utils.GenerationMixin, method, theirs_renamed)
    monkeypatch.setattr(models.GPT2LMHeadModel, method, ours_called)
    assert compat.generate_changes() == [f"`{method}` takes other arguments"]
    mode = {"num_beams": 3} if method == "_beam_search" else {}
    same_texts(ours, theirs, texts(), **GREEDY, **mode)


def _swapped(given: dict[str, Any], old: str, new: str) -> dict[str, Any]:
    return {new if name == old else name: value for name, value in given.items()}


def test_a_cache_that_generate_prepares_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the method that makes it, transformers runs by itself, and says so."""
    ours, theirs = pair()
    name = "_prepare_cache_for_generation"
    theirs_own = getattr(utils.GenerationMixin, name)
    monkeypatch.setattr(models.GPT2LMHeadModel, name, theirs_own)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        same_texts(ours, theirs, texts(), **GREEDY)
    told = [str(each.message) for each in seen if "gpt2fast leaves" in str(each.message)]
    # In 5.0 it is forward that makes the cache: it is the runner's then.
    with torch.no_grad():
        assert len(told) == 1 or isinstance(cache_of(ours(texts(1))), hf.NativeCache)
    assert all(f"{CACHE} is a DynamicCache" in each for each in told)


@ANYWHERE
@torch.no_grad()
def test_states_without_a_registry_of_what_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where transformers notes it no more, or elsewhere, what it gives is what it gives."""
    ours, theirs = pair()
    monkeypatch.delattr(modeling_utils, "_CAN_RECORD_REGISTRY", raising=False)
    compat.register_outputs(ours)
    same_outcome(ours, theirs, lambda model: model(texts(), output_hidden_states=True))


def test_padding_without_the_prepared_token() -> None:
    """Of a GenerationConfig without transformers' private tensor."""
    assert compat.pad_token_id(transformers.GenerationConfig(pad_token_id=7)) == 7


def test_a_renamed_argument_turns_these_tests_red() -> None:
    """What ``make test-newest`` would show of a release that renames an argument of ``forward``."""
    chosen = ["tests/hf/test_compat.py", "-k", "test_other_ways and num_beams"]
    command = [sys.executable, "-m", "pytest", "--no-header", "-p", "no:cacheprovider"]
    path = os.pathsep.join([str(ROOT / "tests" / "support"), os.environ.get("PYTHONPATH", "")])
    run = subprocess.run(
        [*command, "-p", "renamed_argument", *chosen],
        cwd=ROOT, text=True, capture_output=True, timeout=300, check=False,
        env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip
    assert run.returncode == pytest.ExitCode.TESTS_FAILED, run.stdout
    assert "1 failed" in run.stdout
    assert f"caches: new in transformers {transformers.__version__}" in run.stdout
