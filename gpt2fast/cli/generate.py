"""``gpt2fast generate``: continue a prompt, printing the text as it comes."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING, Any

from gpt2fast.errors import OptionError

if TYPE_CHECKING:
    from gpt2fast.engine.llm import LLM
    from gpt2fast.engine.outputs import RequestOutput

_EXAMPLES = """\
examples:
  gpt2fast generate demo "import os"
  gpt2fast generate gpt2 "Once upon a time" --temperature 0.8 --top-p 0.95 --max-tokens 200
  cat prompt.txt | gpt2fast generate ./my-model - --temperature 0 --stop "\\n\\n" --json
  gpt2fast generate gpt2 "The capital of France is" --beam-width 4 --max-tokens 8
"""

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
    ("overflow", str, "when the context is full: error, stop or slide (error)"),
)
_BEAM_OPTIONS: tuple[tuple[str, type, str], ...] = (
    ("beam_width", int, "search with this many beams instead of sampling"),
    ("length_penalty", float, "with --beam-width: above 0 favours long hypotheses (1)"),
    ("early_stopping", str, "with --beam-width: false, true or never (false)"),
)
_DEFAULT_MAX_TOKENS = 128


def add_parser(subparsers: Any) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "generate",
        help="continue a prompt, printing the text as it comes",
        description="Continue a prompt. Text goes to standard output as it is generated.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", metavar="MODEL", help="'demo', a directory, or a hub id")
    parser.add_argument(
        "prompt", metavar="PROMPT", nargs="?", help="'-' or nothing: read from standard input"
    )
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
    sampling.add_argument("--stop-token-id", action="append", type=int, help="may be repeated")
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
    running = parser.add_argument_group("running")
    running.add_argument("--device", default="auto", help="auto, cpu, torch or torch:<device>")
    running.add_argument("--dtype", default="auto", help="auto or float32")
    running.add_argument("--num-threads", type=int, help="default: the physical cores")
    running.add_argument("--kv-cache-tokens", type=int, help="tokens that the KV cache holds")
    running.add_argument("--revision", help="branch, tag or commit of a hub id")
    running.add_argument("--no-echo", action="store_true", help="do not print the prompt first")
    running.add_argument("--json", action="store_true", help="print one JSON object at the end")
    running.add_argument("--verbose", action="store_true", help="print timings to standard error")


def _add_options(group: Any, options: tuple[tuple[str, type, str], ...]) -> None:
    for name, kind, text in options:
        group.add_argument("--" + name.replace("_", "-"), type=kind, help=text)


def _max_tokens(text: str) -> int | None:
    return None if text.lower() == "none" else int(text)


def run(args: argparse.Namespace) -> int:
    """Generate; print text, or one JSON object with text, ids, reasons and timings."""
    from time import perf_counter

    start = perf_counter()
    params = _params(args)
    prompt = _read_prompt(args.prompt)
    from gpt2fast.engine.llm import LLM

    llm = LLM(
        args.model,
        device=args.device,
        dtype=args.dtype,
        num_threads=args.num_threads,
        revision=args.revision,
        kv_cache_tokens=args.kv_cache_tokens,
    )
    with llm:
        load_seconds = perf_counter() - start
        output = _generate(llm, prompt, params, args)
    timings = _timings(output, load_seconds)
    if args.json:
        print(json.dumps(_as_json(output, timings), ensure_ascii=False))
    if args.verbose:
        print(_timing_line(output, timings), file=sys.stderr)
    return 0


def _generate(llm: LLM, prompt: str, params: Any, args: argparse.Namespace) -> RequestOutput:
    from gpt2fast.sampling_params import BeamSearchParams

    echo = "" if args.no_echo or args.json else prompt
    if isinstance(params, BeamSearchParams) or params.n > 1:
        search = isinstance(params, BeamSearchParams)
        (output,) = (llm.beam_search if search else llm.generate)(prompt, params)
        if not args.json:
            print("\n\n".join(echo + each.text for each in output.outputs))
        return output
    stream = llm.stream(prompt, params)
    if args.json:
        for _ in stream:
            pass
    else:
        _print_stream(echo, stream)
    assert stream.output is not None
    return stream.output


def _print_stream(echo: str, stream: Any) -> None:
    # The prompt goes out with the first piece: a request that is refused prints nothing.
    for piece in stream:
        sys.stdout.write(echo + piece)
        sys.stdout.flush()
        echo = ""
    sys.stdout.write(echo + "\n")
    sys.stdout.flush()


def _read_prompt(prompt: str | None) -> str:
    if prompt is None or prompt == "-":
        if sys.stdin.isatty():
            print("gpt2fast: type the prompt; end it with Ctrl-D", file=sys.stderr)
        try:
            prompt = sys.stdin.read()
        except UnicodeDecodeError as error:
            raise OptionError(f"the prompt on standard input is not text: {error}") from error
    return prompt


def _params(args: argparse.Namespace) -> Any:
    from gpt2fast.sampling_params import BeamSearchParams, SamplingParams

    sampling = _given(args, _SAMPLING_OPTIONS)
    beam = _given(args, _BEAM_OPTIONS)
    shared: dict[str, Any] = {
        "max_tokens": getattr(args, "max_tokens", _DEFAULT_MAX_TOKENS),
        "ignore_eos": args.ignore_eos,
        "stop_token_ids": args.stop_token_id or (),
        "skip_special_tokens": not args.keep_special_tokens,
    }
    if args.beam_width is None:
        if beam:
            name = next(iter(beam)).replace("_", "-")
            raise OptionError(f"--{name} is an option of beam search; give --beam-width too")
        if not hasattr(args, "max_tokens"):
            sampling.setdefault("overflow", "stop")
        if args.stop:
            sampling["stop"] = [_unescape(each) for each in args.stop]
        if args.logit_bias:
            sampling["logit_bias"] = dict(_parse_bias(each) for each in args.logit_bias)
        sampling["include_stop_str_in_output"] = args.include_stop_str_in_output
        return SamplingParams(**shared, **sampling)
    for name in ("stop", "logit_bias", "include_stop_str_in_output"):
        if getattr(args, name):
            sampling[name] = getattr(args, name)
    if foreign := sorted(set(sampling) - {"n"}):
        name = foreign[0].replace("_", "-")
        raise OptionError(f"--{name} is an option of sampling and has no meaning with --beam-width")
    if "early_stopping" in beam:
        choices: dict[str, bool | str] = {"true": True, "false": False}
        beam["early_stopping"] = choices.get(beam["early_stopping"], beam["early_stopping"])
    return BeamSearchParams(**shared, **sampling, **beam)


def _given(args: argparse.Namespace, options: tuple[tuple[str, type, str], ...]) -> dict[str, Any]:
    values = {name: getattr(args, name) for name, _, _ in options}
    return {name: value for name, value in values.items() if value is not None}


def _unescape(text: str) -> str:
    """Newline, tab and backslash may be written as in Python: shells make them hard to type."""
    plain = text.replace("\\\\", "\0").replace("\\n", "\n").replace("\\t", "\t")
    return plain.replace("\0", "\\")


def _parse_bias(text: str) -> tuple[int, float]:
    token, _, bias = text.partition("=")
    try:
        return int(token), float(bias)
    except ValueError:
        raise OptionError(f"--logit-bias {text} is not ID=BIAS, such as 50256=-100") from None


def _timings(output: RequestOutput, load_seconds: float) -> dict[str, float | None]:
    """Seconds, and tokens per second of the prompt and of the tokens after the first."""
    metrics = output.metrics
    prompt_seconds = metrics.first_token_time - metrics.arrival_time
    decode_seconds = metrics.finished_time - metrics.first_token_time
    decoded = sum(len(each.token_ids) - 1 for each in output.outputs)
    return {
        "load_seconds": load_seconds,
        "prompt_seconds": prompt_seconds,
        "decode_seconds": decode_seconds,
        "prompt_tokens_per_second": len(output.prompt_token_ids) / prompt_seconds,
        "decode_tokens_per_second": decoded / decode_seconds if decoded else None,
    }


def _timing_line(output: RequestOutput, timings: dict[str, float | None]) -> str:
    speed = timings["decode_tokens_per_second"]
    generated = sum(len(each.token_ids) for each in output.outputs)
    decode = "" if speed is None else f" ({speed:.1f} tok/s after the first)"
    return (
        f"load {timings['load_seconds']:.2f} s; prompt {len(output.prompt_token_ids)} tokens, "
        f"{timings['prompt_tokens_per_second']:.1f} tok/s; generated {generated} tokens{decode}"
    )


def _as_json(output: RequestOutput, timings: dict[str, float | None]) -> dict[str, Any]:
    return {
        "prompt": output.prompt,
        "prompt_token_ids": output.prompt_token_ids,
        "outputs": [
            {
                "index": each.index,
                "text": each.text,
                "token_ids": each.token_ids,
                "finish_reason": each.finish_reason,
                "stop_reason": each.stop_reason,
                "cumulative_logprob": each.cumulative_logprob,
                "logprobs": None
                if each.logprobs is None
                else [
                    [{"token_id": token, **found._asdict()} for token, found in step.items()]
                    for step in each.logprobs
                ],
            }
            for each in output.outputs
        ],
        "timings": timings,
    }
