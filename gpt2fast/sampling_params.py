"""How a continuation is chosen: frozen, validated options under the names vLLM's users know."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

from gpt2fast.errors import OptionError, show

OVERFLOW_MODES = ("error", "stop", "slide")

MAX_COMPLETIONS = 4096  # of one prompt
MAX_BEAM_WIDTH = 256  # a step looks at 2 * width continuations of every beam
MAX_TEMPERATURE = 1e6  # beyond it float32 cannot tell the distribution from a uniform one


@dataclass(frozen=True)
class SamplingParams:
    """Options of one request's sampling. Raises ``OptionError`` naming the option at fault.

    A token is drawn from the logits as follows: ``logit_bias``; repetition penalty over prompt and
    output (Keskar et al. 2019, arXiv:1909.05858: positive logits divided, negative ones
    multiplied); presence and frequency penalties over the output (subtracted); division by the
    temperature; then the filters top-k, top-p (Holtzman et al. 2020, arXiv:1904.09751) and min-p
    (Nguyen et al. 2024, arXiv:2407.01082), in this order.
    """

    n: int = 1  # completions per prompt, [1, 4096]
    temperature: float = 1.0  # [0, 1e6]; 0 takes the most likely token
    top_p: float = 1.0  # (0, 1]; 1 is off
    top_k: int = 0  # >= 1; 0 or -1 is off
    min_p: float = 0.0  # [0, 1], relative to the most likely token; 0 is off
    repetition_penalty: float = 1.0  # [0.01, 100]; 1 is off
    presence_penalty: float = 0.0  # [-2, 2]; 0 is off
    frequency_penalty: float = 0.0  # [-2, 2]; 0 is off
    logit_bias: Mapping[int, float] | None = None  # token id -> [-100, 100], added to its logit
    max_tokens: int | None = 16  # >= 1; None: up to the end of the context
    min_tokens: int = 0  # no stop token or stop string ends the text before this many tokens
    stop: str | Sequence[str] = ()  # text that ends the completion; None: none
    stop_token_ids: Sequence[int] = ()  # tokens that end it, besides the model's own; None: none
    ignore_eos: bool = False  # the model's own end-of-text tokens do not end it
    logprobs: int | None = (
        None  # also return this many most likely tokens per step, from raw logits
    )
    seed: int | None = None  # [0, 2**64); None: drawn from the operating system
    include_stop_str_in_output: bool = False
    skip_special_tokens: bool = True  # in the text; ``token_ids`` always has them
    overflow: str = "error"  # what to do when the context is full: "error", "stop" or "slide"

    def __post_init__(self) -> None:
        _set(self, "n", _integer("n", self.n, low=1, high=MAX_COMPLETIONS))
        temperature = _real("temperature", self.temperature, low=0.0, high=MAX_TEMPERATURE)
        _set(self, "temperature", temperature)
        _set(self, "top_p", _real("top_p", self.top_p, low=0.0, high=1.0, above_low=True))
        _set(self, "top_k", _integer("top_k", self.top_k, low=-1))
        _set(self, "min_p", _real("min_p", self.min_p, low=0.0, high=1.0))
        penalty = _real("repetition_penalty", self.repetition_penalty, low=0.01, high=100.0)
        _set(self, "repetition_penalty", penalty)
        for name in ("presence_penalty", "frequency_penalty"):
            _set(self, name, _real(name, getattr(self, name), low=-2.0, high=2.0))
        _set(self, "logit_bias", _bias(self.logit_bias))
        _set(self, "max_tokens", _optional_integer("max_tokens", self.max_tokens, low=1))
        _set(self, "min_tokens", _integer("min_tokens", self.min_tokens, low=0))
        _set(self, "stop", _strings("stop", self.stop))
        _set(self, "stop_token_ids", _token_ids("stop_token_ids", self.stop_token_ids))
        _set(self, "logprobs", _optional_integer("logprobs", self.logprobs, low=0))
        _set(self, "seed", _optional_integer("seed", self.seed, low=0, high=2**64 - 1))
        for name in ("ignore_eos", "include_stop_str_in_output", "skip_special_tokens"):
            _boolean(name, getattr(self, name))
        _choice("overflow", self.overflow, OVERFLOW_MODES)
        self._refuse_contradictions()

    def _refuse_contradictions(self) -> None:
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise OptionError(
                f"min_tokens = {self.min_tokens} exceeds max_tokens = {self.max_tokens}; lower "
                "min_tokens or raise max_tokens"
            )
        if self.n > 1 and self.temperature == 0.0:
            raise OptionError(
                f"n = {self.n} with temperature = 0 would give {self.n} equal completions; set a "
                "temperature above 0, or n = 1"
            )
        if self.overflow == "slide" and self.max_tokens is None:
            raise OptionError(
                'overflow = "slide" with max_tokens = None would never end; give max_tokens'
            )


@dataclass(frozen=True)
class BeamSearchParams:
    """Options of beam search. Raises ``OptionError`` naming the option at fault.

    A finished hypothesis of T tokens scores ``sum(log p) / T**length_penalty``. ``early_stopping``:
    True ends when ``beam_width`` hypotheses are finished; False also compares the best running
    beam at its present length with them; "never" compares it at the length that favours it most.
    """

    beam_width: int = 4  # [1, 256]
    max_tokens: int | None = 16  # >= 1; None: up to the end of the context
    n: int = 1  # completions returned, best first; at most beam_width
    length_penalty: float = 1.0  # [-20, 20]; above 0 favours long hypotheses
    early_stopping: bool | str = False  # False, True or "never"
    ignore_eos: bool = False
    stop_token_ids: Sequence[int] = ()
    skip_special_tokens: bool = True

    def __post_init__(self) -> None:
        width = _integer("beam_width", self.beam_width, low=1, high=MAX_BEAM_WIDTH)
        _set(self, "beam_width", width)
        _set(self, "max_tokens", _optional_integer("max_tokens", self.max_tokens, low=1))
        _set(self, "n", _integer("n", self.n, low=1))
        _set(
            self,
            "length_penalty",
            _real("length_penalty", self.length_penalty, low=-20.0, high=20.0),
        )
        _set(self, "stop_token_ids", _token_ids("stop_token_ids", self.stop_token_ids))
        for name in ("ignore_eos", "skip_special_tokens"):
            _boolean(name, getattr(self, name))
        if not isinstance(self.early_stopping, bool) and self.early_stopping != "never":
            raise _refuse("early_stopping", self.early_stopping, 'False, True or "never"')
        if self.n > self.beam_width:
            raise OptionError(
                f"n = {self.n} exceeds beam_width = {self.beam_width}; raise beam_width or lower n"
            )


@dataclass(frozen=True)
class ScoringParams:
    """A request for the logits of all tokens of its prompt; nothing is generated."""

    n: int = 1
    max_tokens: int = 0
    ignore_eos: bool = True
    stop_token_ids: Sequence[int] = ()


def _set(params: object, name: str, value: Any) -> None:
    object.__setattr__(params, name, value)


def _refuse(option: str, value: object, allowed: str) -> OptionError:
    return OptionError(f"{option} = {show(value)} is not allowed; give {allowed}")


def _range_text(kind: str, low: float | None, high: float | None, above_low: bool = False) -> str:
    if low is not None and high is not None:
        bracket = "(" if above_low else "["
        return f"{kind} in {bracket}{_bound(low)}, {_bound(high)}]"
    if low is not None:
        return f"{kind} {'above' if above_low else 'of at least'} {_bound(low)}"
    return kind


def _bound(value: float) -> str:
    return str(int(value)) if value == int(value) else f"{value:g}"


def _integer(option: str, value: Any, *, low: int, high: int | None = None) -> int:
    # bool is an Integral to Python, but True for a count is a mistake worth naming.
    valid = isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= low
    if not valid or (high is not None and int(value) > high):
        raise _refuse(option, value, _range_text("an integer", low, high))
    return int(value)


def _optional_integer(option: str, value: Any, *, low: int, high: int | None = None) -> int | None:
    return None if value is None else _integer(option, value, low=low, high=high)


def _real(
    option: str,
    value: Any,
    *,
    low: float | None = None,
    high: float | None = None,
    above_low: bool = False,
) -> float:
    valid = isinstance(value, Real) and not isinstance(value, bool)
    try:
        valid = valid and math.isfinite(value)
    except OverflowError:  # an integer beyond the range of floats
        valid = False
    if valid and low is not None:
        valid = value > low if above_low else value >= low
    if valid and high is not None:
        valid = value <= high
    if not valid:
        raise _refuse(option, value, _range_text("a finite number", low, high, above_low))
    return float(value)


def _boolean(option: str, value: object) -> None:
    if not isinstance(value, bool):
        raise _refuse(option, value, "True or False")


def _choice(option: str, value: object, choices: Sequence[object]) -> None:
    if not isinstance(value, str) or value not in choices:
        raise _refuse(option, value, "one of " + ", ".join(repr(choice) for choice in choices))


def _strings(option: str, value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    strings = (value,) if isinstance(value, str) else value
    if not isinstance(strings, Iterable):
        raise _refuse(option, value, "a string or a list of strings")
    strings = tuple(strings)
    if not all(isinstance(string, str) and string for string in strings):
        raise _refuse(option, value, "a string or a list of strings, none of them empty")
    return strings


def _token_ids(option: str, value: Any) -> tuple[int, ...]:
    if value is None:
        return ()
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        raise _refuse(option, value, "a list of token ids")
    return tuple(_integer(option, token, low=0) for token in value)


def _bias(value: Any) -> dict[int, float] | None:
    if value is None:
        return None
    if not isinstance(value, Mapping):
        raise _refuse("logit_bias", value, "a mapping from token id to bias")
    return {
        _integer("logit_bias", token, low=0): _real(
            f"logit_bias[{token!r}]", bias, low=-100.0, high=100.0
        )
        for token, bias in value.items()
    }
