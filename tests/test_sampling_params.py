"""Options are validated one by one and together; every refusal names the option."""

from __future__ import annotations

import dataclasses
import pickle

import numpy as np
import pytest

from gpt2fast.errors import OptionError
from gpt2fast.sampling_params import BeamSearchParams, SamplingParams

NAN, INF = float("nan"), float("inf")

BAD_SAMPLING = {
    "n": [0, -1, 1.0, True, "2", None, 4097],
    "temperature": [-0.1, NAN, INF, True, "1", None, 1e300, 10**400],
    "top_p": [0.0, -0.1, 1.1, NAN, None],
    "top_k": [-2, 1.5, True],
    "min_p": [-0.1, 1.1, NAN],
    "repetition_penalty": [0.0, -1.0, NAN, INF, 1e-308, 1e308],
    "presence_penalty": [-2.1, 2.1, NAN],
    "frequency_penalty": [-2.1, 2.1, NAN],
    "logit_bias": [[1], {1: 10**400}, {"a": 1.0}, {-1: 1.0}, {1: NAN}, {1: 101.0}, {True: 1.0}],
    "max_tokens": [0, -1, 2.0, True],
    "min_tokens": [-1, None, 1.0],
    "stop": [1, "", ["a", ""], [1]],
    "stop_token_ids": [5, "5", [-1], [1.0], [True]],
    "ignore_eos": [1, None],
    "logprobs": [-1, True, 1.5],
    "seed": [-1, 2**64, 1.0, True],
    "include_stop_str_in_output": ["yes"],
    "skip_special_tokens": [0],
    "overflow": ["crash", None, 1, np.array(["stop", "slide"])],
}
BAD_BEAM = {
    "beam_width": [0, 1.0, True, 257],
    "max_tokens": [0, True],
    "n": [0],
    "length_penalty": [NAN, INF, 21.0, None],
    "early_stopping": ["always", 1, None],
    "ignore_eos": [0],
    "stop_token_ids": [3],
    "skip_special_tokens": ["no"],
}


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [(SamplingParams, name, value) for name, values in BAD_SAMPLING.items() for value in values]
    + [(BeamSearchParams, name, value) for name, values in BAD_BEAM.items() for value in values],
)
def test_bad_value_is_refused_by_name(kind: type, name: str, value: object) -> None:
    with pytest.raises(OptionError, match=name) as caught:
        kind(**{name: value})
    assert "give" in str(caught.value)


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"min_tokens": 5, "max_tokens": 4}, ("min_tokens = 5", "max_tokens = 4")),
        ({"n": 2, "temperature": 0}, ("n = 2", "temperature")),
        ({"overflow": "slide", "max_tokens": None}, ("overflow", "max_tokens")),
    ],
)
def test_contradictions_are_refused(options: dict[str, object], names: tuple[str, ...]) -> None:
    with pytest.raises(OptionError) as caught:
        SamplingParams(**options)  # type: ignore[arg-type]
    assert all(name in str(caught.value) for name in names)


def test_more_beam_results_than_beams_are_refused() -> None:
    with pytest.raises(OptionError, match=r"n = 3 exceeds beam_width = 2"):
        BeamSearchParams(beam_width=2, n=3)


def test_unknown_option_is_refused() -> None:
    with pytest.raises(TypeError, match="best_of"):
        SamplingParams(best_of=2)  # type: ignore[call-arg]


def test_values_are_normalized() -> None:
    params = SamplingParams(
        n=np.int64(2), temperature=1, stop="x", stop_token_ids=[3], logit_bias={np.int32(1): 2}
    )
    assert (params.n, params.temperature, params.stop) == (2, 1.0, ("x",))
    assert type(params.n) is int
    assert type(params.temperature) is float
    assert params.stop_token_ids == (3,)
    assert params.logit_bias == {1: 2.0}


def test_defaults_are_valid_frozen_and_picklable() -> None:
    for params in (SamplingParams(), BeamSearchParams()):
        assert pickle.loads(pickle.dumps(params)) == params
        with pytest.raises(dataclasses.FrozenInstanceError):
            params.n = 3  # type: ignore[misc]


@pytest.mark.parametrize("top_k", [0, -1, 1, 10**9])
def test_top_k_off_and_large(top_k: int) -> None:
    assert SamplingParams(top_k=top_k).top_k == top_k


def test_largest_seed() -> None:
    assert SamplingParams(seed=2**64 - 1).seed == 2**64 - 1


def test_the_bounds_themselves_are_allowed() -> None:
    params = SamplingParams(n=4096, temperature=1e6, repetition_penalty=0.01)
    assert (params.n, params.temperature, params.repetition_penalty) == (4096, 1e6, 0.01)
    assert SamplingParams(repetition_penalty=100).repetition_penalty == 100.0
    assert BeamSearchParams(beam_width=256).beam_width == 256
    with pytest.raises(OptionError, match=r"\[0\.01, 100\]"):
        SamplingParams(repetition_penalty=101)


def test_an_integer_too_long_to_be_written_out_is_refused_by_name() -> None:
    for name in ("n", "temperature", "seed"):
        with pytest.raises(OptionError, match=f"{name} = an integer of thousands of digits"):
            SamplingParams(**{name: 10**5000})  # type: ignore[arg-type]
