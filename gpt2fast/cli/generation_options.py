"""The options of ``gpt2fast generate`` that choose a continuation, and what they stand for."""

from __future__ import annotations

import argparse
import warnings
from typing import TYPE_CHECKING, Any

from gpt2fast.errors import OptionError
from gpt2fast.flag_names import flag_name

if TYPE_CHECKING:
    from gpt2fast.sampling_params import BeamSearchParams, SamplingParams

# Options of sampling and of beam search by the names of their dataclasses: (name, type, help). An
# option that is not given is left to the dataclass, which also checks the values.
_SAMPLING_OPTIONS: tuple[tuple[str, type, str], ...] = (
    ("n", int, "completions of the prompt; above 1 they are printed one after the other (1)"),
    ("temperature", float, "0 takes the most likely token each time (1)"),
    ("top_p", float, "keep the most likely tokens that hold this much probability (1: off)"),
    ("top_k", int, "keep this many of the most likely tokens (0: off)"),
    ("min_p", float, "drop tokens less likely than this times the most likely one (0: off)"),
    ("repetition_penalty", float, "above 1 discourages tokens already seen (1: off)"),
    ("presence_penalty", float, "subtracted from logits of tokens already generated (0: off)"),
    ("frequency_penalty", float, "the same, times how often each was generated (0: off)"),
    ("min_tokens", int, "no end before this many tokens (0)"),
    ("logprobs", int, "with --json: log probabilities of this many tokens per step"),
    ("seed", int, "makes the text repeatable (default: fresh each time)"),
    (
        "overflow",
        str,
        "when the context is full: error, stop or slide (error; stop without --max-tokens)",
    ),
)
_BEAM_OPTIONS: tuple[tuple[str, type, str], ...] = (
    ("beam_width", int, "search with this many beams instead of sampling"),
    ("length_penalty", float, "with --beam-width: above 0 favours long hypotheses (1)"),
    ("early_stopping", str, "with --beam-width: false, true or never (false)"),
)
_DEFAULT_MAX_TOKENS = 128


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of sampling and of beam search."""
    sampling = parser.add_argument_group("sampling")
    sampling.add_argument(
        "--max-tokens",
        type=_max_tokens,
        default=argparse.SUPPRESS,  # "not given" is not "none"
        help="tokens to generate, or 'none': up to the end of the context "
        f"({_DEFAULT_MAX_TOKENS}, or as many as the context holds)",
    )
    _add_options(sampling, _SAMPLING_OPTIONS)
    sampling.add_argument("--stop", action="append", help="text that ends it; may be repeated")
    sampling.add_argument(
        "--stop-token-id",
        dest="stop_token_ids",
        metavar="ID",
        action="append",
        type=int,
        help="may be repeated",
    )
    sampling.add_argument(
        "--logit-bias", action="append", metavar="ID=BIAS", help="may be repeated"
    )
    for name, text in (
        ("ignore-eos", "go on after the end-of-text token"),
        ("include-stop-str-in-output", "print the stop string too"),
        ("keep-special-tokens", "print special tokens"),
    ):
        sampling.add_argument(f"--{name}", action="store_true", help=text)
    _add_options(parser.add_argument_group("beam search"), _BEAM_OPTIONS)


def _add_options(group: Any, options: tuple[tuple[str, type, str], ...]) -> None:
    for name, kind, text in options:
        group.add_argument(flag_name(name), type=kind, help=text)


def _max_tokens(text: str) -> int | None:
    try:
        return None if text.lower() == "none" else int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither an integer nor 'none'") from None


def read_params(args: argparse.Namespace) -> SamplingParams | BeamSearchParams:
    """What the options ask for. Raises OptionError for what is ill or would have no effect."""
    if args.beam_width is None:
        return _sampling_params(args)
    return _beam_params(args)


def _sampling_params(args: argparse.Namespace) -> SamplingParams:
    from gpt2fast.sampling_params import SamplingParams

    if beam := _given(args, _BEAM_OPTIONS):
        name = flag_name(next(iter(beam)))
        raise OptionError(f"{name} is an option of beam search; give --beam-width too")
    sampling = _given(args, _SAMPLING_OPTIONS)
    if not hasattr(args, "max_tokens"):
        sampling.setdefault("overflow", "stop")
    if args.stop:
        sampling["stop"] = [_unescape(each) for each in args.stop]
    if args.logit_bias:
        sampling["logit_bias"] = _parse_biases(args.logit_bias)
    sampling["include_stop_str_in_output"] = args.include_stop_str_in_output
    _refuse_what_has_no_effect(args)
    params = SamplingParams(**_shared(args), **sampling)
    if params.temperature == 0.0:
        idle = [flag_name(name) for name in ("top_k", "top_p", "min_p") if name in sampling]
        if idle:
            warnings.warn(
                f"{', '.join(idle)}: no effect at temperature 0, which takes the most likely token",
                stacklevel=1,
            )
    return params


def _beam_params(args: argparse.Namespace) -> BeamSearchParams:
    from gpt2fast.sampling_params import BeamSearchParams

    sampling, beam = _given(args, _SAMPLING_OPTIONS), _given(args, _BEAM_OPTIONS)
    for name in ("stop", "logit_bias", "include_stop_str_in_output"):
        if getattr(args, name):
            sampling[name] = getattr(args, name)
    if foreign := sorted(set(sampling) - {"n"}):
        raise OptionError(
            f"{flag_name(foreign[0])} is an option of sampling and has no meaning with --beam-width"
        )
    if "early_stopping" in beam:
        choices: dict[str, bool | str] = {"true": True, "false": False}
        beam["early_stopping"] = choices.get(beam["early_stopping"], beam["early_stopping"])
    return BeamSearchParams(**_shared(args), **sampling, **beam)


def _shared(args: argparse.Namespace) -> dict[str, Any]:
    return {
        "max_tokens": getattr(args, "max_tokens", _DEFAULT_MAX_TOKENS),
        "ignore_eos": args.ignore_eos,
        "stop_token_ids": args.stop_token_ids or (),
        "skip_special_tokens": not args.keep_special_tokens,
    }


def _refuse_what_has_no_effect(args: argparse.Namespace) -> None:
    if args.logprobs is not None and not args.json:
        raise OptionError("--logprobs are printed with --json only; add --json")
    ends = args.stop or args.stop_token_ids or args.keep_special_tokens
    if args.include_stop_str_in_output and not ends:
        raise OptionError("--include-stop-str-in-output has no effect without --stop; add --stop")


def _given(args: argparse.Namespace, options: tuple[tuple[str, type, str], ...]) -> dict[str, Any]:
    values = {name: getattr(args, name) for name, _, _ in options}
    return {name: value for name, value in values.items() if value is not None}


def _unescape(text: str) -> str:
    """Newline, tab and backslash may be written as in Python: shells make them hard to type."""
    plain = text.replace("\\\\", "\0").replace("\\n", "\n").replace("\\t", "\t")
    return plain.replace("\0", "\\")


def _parse_biases(texts: list[str]) -> dict[int, float]:
    biases: dict[int, float] = {}
    for text in texts:
        token, _, bias = text.partition("=")
        try:
            token_id, value = int(token), float(bias)
        except ValueError:
            raise OptionError(f"--logit-bias {text} is not ID=BIAS, such as 50256=-100") from None
        if token_id in biases:
            raise OptionError(f"--logit-bias gives token {token_id} two biases; keep one of them")
        biases[token_id] = value
    return biases
